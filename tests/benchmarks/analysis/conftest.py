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

OBJECTS = {
    "model.rstg.scales": "",
    "model.rstg.objects": "3",
    "model.rstg.neighbours": "all",
    "model.map_classes": "3",
}


@pytest.fixture(scope="session")
def subject():
    """The tiny model with random weights and eight videos."""
    return make({})


@pytest.fixture(scope="session")
def on_objects():
    """The same with nodes that are objects."""
    return make(OBJECTS)


def make(changes):
    changes = {"model.rstg.stages": "time,space,time", **changes}
    experiment = config.override(sync_mnist.tiny(), changes)
    source = dataclasses.replace(experiment.data, num_test=8).open("test")
    module = classifier.build(experiment.model, len(source.label_names))
    batch = source.batch(np.arange(8))
    variables = jax.jit(module.init)(jax.random.key(5), batch["video"])
    weights = Weights(experiment, variables, source.label_names, {"name": "a test"})
    videos = {key: batch[key] for key in ARRAYS}
    return Subject(weights, module, videos, source.label_names.index("none"))
