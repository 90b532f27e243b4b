"""Weights by name or from a .safetensors file, for `--weights` and `rstg_jax.load`."""

import argparse
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from rstg_jax.convert import i3d_jax
from rstg_jax.errors import UserError
from rstg_jax.models import classifier
from rstg_jax.training import trained_model, weights_file
from rstg_jax.training.experiment import Experiment
from rstg_jax.training.weights import Weights

# Each reads its file when it is called, and says how to get it if it is not there.
KNOWN: dict[str, Callable[[], Weights]] = {
    "kinetics/i3d": i3d_jax.load,
    **{
        name: functools.partial(weights_file.read, path)
        for name, path in weights_file.SHIPPED.items()
    },
}


class Loaded(NamedTuple):
    """A trained model.

    Attributes:
      module: the network; ``module.apply(variables, video)`` gives logits and intermediates of
        `[b t h w c]`, pixels 0..255 unless the data are no pictures. `load_experiment` says which
        t, h, w and c it was trained on.
      variables: its weights and statistics, float32.
      label_names: one for each class.
    """

    module: nn.Module
    variables: Any
    label_names: tuple[str, ...]


def load(name: str | os.PathLike[str]) -> Loaded:
    """Loads a trained model by a name of `KNOWN`, or from a .safetensors file.

    Raises:
      UserError: no such name or file, or a damaged one.
    """
    weights = find(os.fspath(name))
    module = classifier.build(weights.experiment.model, len(weights.label_names))
    return Loaded(module, weights.variables, weights.label_names)


def load_experiment(name: str | os.PathLike[str]) -> Experiment:
    """The configuration of a model that `load` loads, of its data above all.

    ``data.clip_shape`` is the `(t, h, w, c)` of the clips that it was trained on, and
    ``data.open("test").batch(indices)`` gives some of them; ``data.test_clip_shape`` is that of
    testing.

    Raises:
      UserError: as `load`.
    """
    return find(os.fspath(name)).experiment


def find(name: str) -> Weights:
    """The weights of a name of `KNOWN`, or of a .safetensors file; raises as `load`."""
    if name in KNOWN:
        return KNOWN[name]()
    if name.endswith(weights_file.SUFFIX):
        return weights_file.read(Path(name).expanduser())
    if Path(name).expanduser().is_dir():
        raise UserError(
            f"{name} is a directory: python -m rstg_jax.convert.export --workdir={name} "
            f"--out=FILE{weights_file.SUFFIX} makes a file of a run, to give in its place"
        )
    known = ", ".join(sorted(KNOWN))
    raise UserError(f"no weights {name!r}: give one of {known}, or a {weights_file.SUFFIX} file")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that choose a trained model: those of `add_source_flags`, the protocol."""
    add_source_flags(parser)
    parser.add_argument("--protocol", help="center, dense, tsm, tsn or NxM; default: the config's")


def add_source_flags(parser: argparse.ArgumentParser) -> Any:
    """Adds the flags for a run or weights and its step; one of the group returned is required."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--workdir", help="directory of the training run")
    source.add_argument("--weights", help="name of published weights, or a .safetensors file")
    parser.add_argument("--step", default="last", help="last (default), best, or a number")
    return source


def chosen(
    args: argparse.Namespace,
    overrides: Mapping[str, str],
    devices: list[jax.Device] | None = None,
) -> trained_model.TrainedModel:
    """The model that the flags of `add_flags` choose; for the others see `trained_model.load`."""
    if args.weights:
        if args.step != "last":
            raise UserError(f"--step={args.step} is for --workdir: --weights have no steps")
        model = find(args.weights).model(overrides, devices)
    else:
        model = trained_model.load(args.workdir, args.step, overrides, devices)
    return model.with_protocol(args.protocol)
