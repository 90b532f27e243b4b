"""Weights that did not come from a run here: a model without a checkpoint."""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from rstg_jax import config
from rstg_jax.models import classifier
from rstg_jax.models.config import FINAL
from rstg_jax.training import sharding, train_state, trained_model
from rstg_jax.training.experiment import Experiment


class Weights(NamedTuple):
    """All that a checkpoint of such weights consists of.

    Attributes:
      experiment: its model is the one that the variables are for, its data gives clips as the
        network was trained on.
      variables: ``params`` and, if the model has batch norm, ``batch_stats``.
      label_names: one for each class.
      source: where the weights come from, for the record.
    """

    experiment: Experiment
    variables: Mapping[str, Any]
    label_names: tuple[str, ...]
    source: Mapping[str, Any]

    def model(
        self, overrides: Mapping[str, str] | None = None, devices: list[jax.Device] | None = None
    ) -> trained_model.TrainedModel:
        """The model, as `trained_model.load` returns it.

        Args:
          overrides: dotted config keys to change, such as those of the clips.
          devices: where to put the model, data-parallel; by default all devices.
        """
        experiment = config.override(self.experiment, overrides or {})
        mesh = sharding.make_mesh(sharding.MeshConfig(), devices, or_data_parallel=True)
        module = classifier.build(experiment.model, len(self.label_names))
        shape = experiment.data.clip_shape
        abstract = train_state.abstract_variables(module, shape, mesh)
        trained_model.check_same(abstract, self.variables)
        variables = jax.device_put(self.variables, train_state.shardings_of(abstract))
        meta = {"video_shape": list(shape), "data": {"weights": dict(self.source)}}
        return trained_model.TrainedModel(
            experiment, module, variables, abstract, mesh, self.label_names, 0, meta
        )


def checksum(experiment: Experiment, variables: Mapping[str, Any]) -> str:
    """First 16 digits of the SHA-256 of the weights on which feature maps depend."""
    places = [place for place in experiment.model.resolved if place != FINAL]
    modules = {"backbone", *map(classifier.block_name, places)}
    digest = hashlib.sha256()
    for path, leaf in sorted(traverse_util.flatten_dict(dict(variables)).items()):
        if path[1] in modules:
            digest.update("/".join(path).encode())
            digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]
