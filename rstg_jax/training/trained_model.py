"""A trained model from a checkpoint alone, for everything that comes after training."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh

from rstg_jax import config as config_lib
from rstg_jax import data as data_lib
from rstg_jax import storage
from rstg_jax.errors import UserError, named
from rstg_jax.models import classifier
from rstg_jax.training import sharding, train_state
from rstg_jax.training.checkpoint import Checkpoints
from rstg_jax.training.experiment import Experiment


class TrainedModel(NamedTuple):
    """A model from a checkpoint alone, ready to evaluate or predict.

    Attributes:
      experiment: configuration of its run.
      module: the network.
      variables: its weights and statistics.
      abstract: shapes, types and shardings of the variables.
      mesh: devices that hold the variables.
      label_names: name of each class.
      step: of the checkpoint.
      meta: JSON part of the checkpoint.
    """

    experiment: Experiment
    module: nn.Module
    variables: dict[str, Any]
    abstract: Any
    mesh: Mesh
    label_names: tuple[str, ...]
    step: int
    meta: dict[str, Any]

    @property
    def data(self) -> data_lib.DataConfig:
        """Configuration of its data."""
        return self.experiment.data

    @property
    def logit_places(self) -> np.ndarray | None:
        """For mirrored views, see `DataConfig.logit_places`."""
        return self.data.logit_places(self.label_names)

    def abstract_state(self) -> Any:
        """Shapes, types and shardings of the whole training state of its run."""
        experiment = self.experiment
        setup = train_state.make_setup(
            self.module, experiment.loss, experiment.optimizer, self.meta["total_steps"]
        )
        return train_state.abstract_state(setup, tuple(self.meta["video_shape"]), self.mesh)

    def with_data(self, config: data_lib.DataConfig) -> "TrainedModel":
        """The same model for other data."""
        return self._replace(experiment=dataclasses.replace(self.experiment, data=config))

    def with_protocol(self, protocol: str | None) -> "TrainedModel":
        """The same model tested by a protocol of its data set; unchanged if None."""
        return self if protocol is None else self.with_data(self.data.with_protocol(protocol))


def load(
    workdir: str | storage.Path,
    which: str = "last",
    overrides: Mapping[str, str] | None = None,
    devices: list[jax.Device] | None = None,
) -> TrainedModel:
    """Loads a checkpoint for evaluation or prediction.

    Args:
      workdir: directory of the training run.
      which: ``last``, ``best`` (on the test split, see `scores.headline`) or a step.
      overrides: dotted config keys to change, such as where the data lies.
      devices: where to put the model, data-parallel; by default all devices, on the mesh of the
        training if that still fits.

    Raises:
      UserError: no such checkpoint.
    """
    with Checkpoints(workdir, read_only=True) as checkpoints:
        step = checkpoints.resolve(which)
        meta = checkpoints.run_meta(step)
        experiment = config_lib.from_dict(Experiment, meta["config"])
        experiment = config_lib.override(experiment, overrides or {})
        mesh = sharding.make_mesh(
            sharding.MeshConfig() if devices else experiment.mesh, devices, or_data_parallel=True
        )
        module = classifier.build(experiment.model, len(meta["label_names"]))
        abstract = train_state.abstract_variables(module, tuple(meta["video_shape"]), mesh)
        there = checkpoints.stored_variables(step)
        check_same(abstract, traverse_util.unflatten_dict(there, sep="/"))
        wanted = traverse_util.flatten_dict(abstract, sep="/")
        read = checkpoints.restore_variables(step, there, wanted)
    names, variables = tuple(meta["label_names"]), traverse_util.unflatten_dict(read, sep="/")
    return TrainedModel(experiment, module, variables, abstract, mesh, names, step, meta)


def check_same(wanted: Any, found: Any) -> None:
    """Raises `UserError` unless two trees of variables have the same names and shapes."""
    shapes = [
        {"/".join(path): tuple(leaf.shape) for path, leaf in flat.items()}
        for flat in map(traverse_util.flatten_dict, (wanted, found))
    ]
    problems = [f"missing {name}" for name in sorted(shapes[0].keys() - shapes[1].keys())]
    problems += [f"unused {name}" for name in sorted(shapes[1].keys() - shapes[0].keys())]
    problems += [
        f"{name} is {list(shapes[1][name])}, the model's is {list(shape)}"
        for name, shape in sorted(shapes[0].items())
        if name in shapes[1] and shapes[1][name] != shape
    ]
    if problems:
        raise UserError(f"the weights do not fit the model: {named(problems)}")
