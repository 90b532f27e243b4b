"""A tiny model for the tests of the analysis."""

import dataclasses

import jax
import numpy as np
import pytest

from benchmarks.analysis.subject import ARRAYS, Subject
from configs import sync_mnist
from rstg_jax import config
from rstg_jax.models import classifier
from rstg_jax.training.weights import Weights


@pytest.fixture(scope="session")
def subject():
    """The tiny model with random weights and eight videos."""
    experiment = config.override(sync_mnist.tiny(), {"model.rstg.stages": "time,space,time"})
    source = dataclasses.replace(experiment.data, num_test=8).open("test")
    module = classifier.build(experiment.model, len(source.label_names))
    batch = source.batch(np.arange(8))
    variables = jax.jit(module.init)(jax.random.key(5), batch["video"])
    weights = Weights(experiment, variables, source.label_names, {"name": "a test"})
    videos = {key: batch[key] for key in ARRAYS}
    return Subject(weights, module, videos, source.label_names.index("none"))
