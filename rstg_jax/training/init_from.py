"""Initializes a run with the weights of another.

Weights and running statistics are matched by path, such as ``params/rstg_final/time/lstm/bias``.
Where the checkpoint holds a moving average of the weights, those are used: the weights whose score
its ``best`` refers to. Step, optimiser and random key always start fresh.

The classifier starts fresh when the number of classes differs. Everything else that does not fit
must be allowed by name, ``train.init_fresh`` and ``train.init_ignore``.
"""

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from rstg_jax import config, storage
from rstg_jax.errors import UserError, named
from rstg_jax.models.classifier import build
from rstg_jax.training import patterns, sharding, train_state, weights_file
from rstg_jax.training.checkpoint import Checkpoints
from rstg_jax.training.experiment import Experiment, TrainConfig
from rstg_jax.training.trained_model import TrainedModel

CLASSIFIER = "params/classifier/"
_log = logging.getLogger(__name__)
Shaped = Mapping[str, Any]  # path -> anything with a shape


class Match(NamedTuple):
    """Paths: pretrained, freshly initialised, and those of the checkpoint that are left out."""

    pretrained: tuple[str, ...]
    fresh: tuple[str, ...]
    ignored: tuple[str, ...]


def model(experiment: Experiment, label_names: Sequence[str]) -> TrainedModel:
    """The model with which training would begin, see `weights`; without `train.init_from` fresh.

    Args:
      experiment: the configuration.
      label_names: of the data to train on.
    """
    mesh = sharding.make_mesh(experiment.mesh, or_data_parallel=True)
    module = build(experiment.model, len(label_names))
    shape, settings = experiment.data.clip_shape, experiment.train
    abstract = train_state.abstract_variables(module, shape, mesh)
    pretrained = weights(settings, abstract, label_names)[0] if settings.init_from else {}
    begin = functools.partial(train_state.init_variables, module, shape)
    placed = jax.jit(begin, out_shardings=train_state.shardings_of(abstract))
    variables = placed(jnp.int32(settings.seed), pretrained)
    meta = {"video_shape": list(shape)}
    return TrainedModel(experiment, module, variables, abstract, mesh, tuple(label_names), 0, meta)


def weights(
    settings: TrainConfig, abstract: Mapping[str, Any], label_names: Sequence[str]
) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """Reads the weights of `settings.init_from` for a model.

    Args:
      settings: the checkpoint, and the differences that are allowed.
      abstract: shapes, types and shardings of the variables to begin with.
      label_names: of the data to train on.

    Returns:
      Path -> array, placed as `abstract` says; and the source to record: directory, step and the
      numbers of pretrained, fresh and ignored arrays.

    Raises:
      UserError: no such checkpoint, or it does not fit; names everything that does not.
    """
    if path := _file(settings.init_from):
        return of_file(path, settings, abstract, label_names)
    directory, which = _run(settings.init_from)
    with Checkpoints(directory, read_only=True) as checkpoints:
        step = checkpoints.resolve(which)
        there, here = checkpoints.stored_variables(step), flat(abstract)
        found = match(settings, here, there, f"{directory} step {step}")
        wanted = {path: here[path] for path in found.pretrained}
        pretrained = checkpoints.restore_variables(step, there, wanted) if wanted else {}
        names = checkpoints.meta(step).get("label_names", label_names)
    pretrained |= classifier(pretrained, names, label_names)
    return pretrained, {
        "directory": directory,
        "step": step,
        **report(found, f"{directory} step {step}"),
    }


def check(settings: TrainConfig, abstract: Mapping[str, Any]) -> None:
    """Raises `UserError` as `weights` does, without the labels; of a checkpoint it reads shapes."""
    here = flat(abstract)
    if path := _file(settings.init_from):
        match(settings, here, weights_file.flat(weights_file.read(path)), settings.init_from)
        return
    directory, which = _run(settings.init_from)
    with Checkpoints(directory, read_only=True) as checkpoints:
        step = checkpoints.resolve(which)
        match(settings, here, checkpoints.stored_variables(step), f"{directory} step {step}")


def _file(init_from: str) -> storage.Path | None:
    """The .safetensors file that `TrainConfig.init_from` means, if it means one."""
    if init_from in weights_file.SHIPPED:
        return weights_file.SHIPPED[init_from]
    return storage.path(init_from) if init_from.endswith(weights_file.SUFFIX) else None


def _run(init_from: str) -> tuple[str, str]:
    """The directory of a run, which is there, and the step."""
    directory, which = split(init_from)
    place = storage.path(directory)
    if not storage.in_bucket(place) and not place.is_dir():
        names = [*weights_file.SHIPPED]
        raise UserError(
            f"train.init_from={init_from}: there is no such directory, nor are weights of that "
            f"name in the package, where the nearest is {config.nearest(directory, names)!r}"
        )
    return directory, which


def of_file(
    path: storage.Path,
    settings: TrainConfig,
    abstract: Mapping[str, Any],
    label_names: Sequence[str],
) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """The same as `weights` for a .safetensors file."""
    given = weights_file.read(path)
    there, here = weights_file.flat(given), flat(abstract)
    found = match(settings, here, there, settings.init_from)
    pretrained = {
        path: jax.device_put(there[path].astype(here[path].dtype), here[path].sharding)
        for path in found.pretrained
    }
    pretrained |= classifier(pretrained, given.label_names, label_names)
    return pretrained, {"file": settings.init_from, **report(found, settings.init_from)}


def report(found: Match, source: str) -> dict[str, int]:
    """Logs how many arrays came from where; returns the numbers for the record."""
    counts = {name: len(paths) for name, paths in found._asdict().items()}
    _log.info(
        "initialised from %s: %d arrays pretrained, %d fresh, %d ignored",
        *(source, *counts.values()),
    )
    return counts


def split(init_from: str) -> tuple[str, str]:
    """``DIR:best``, ``DIR:last`` or ``DIR:123`` -> directory and step; ``DIR`` means the last."""
    directory, _, which = init_from.rpartition(":")
    if not directory or not (which in ("best", "last") or which.isdecimal()):
        directory, which = init_from, "last"
    return str(storage.path(directory)), which


def flat(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts to path -> leaf."""
    return traverse_util.flatten_dict(dict(nested), sep="/")


def match(settings: TrainConfig, here: Shaped, there: Shaped, source: str) -> Match:
    """Decides about every path.

    Args:
      settings: the differences that are allowed.
      here: the model's arrays.
      there: the checkpoint's.
      source: name of the checkpoint for the error.

    Raises:
      UserError: names the paths that are missing, left over or misshapen without being allowed to,
        and every pattern that matches nothing.
    """
    fresh = set(patterns.matching(settings.init_fresh, here))
    bias = f"{CLASSIFIER}bias"
    if {bias} <= here.keys() & there.keys() and here[bias].shape != there[bias].shape:
        fresh |= set(patterns.matching([f"^{CLASSIFIER}"], here))
        _log.info(
            "%d classes there, %d here: new classifier", *there[bias].shape, *here[bias].shape
        )
    left = [path for path in there if path not in here]
    ignored = patterns.matching(settings.init_ignore, left)
    wanted = [path for path in here if path not in fresh]

    def sizes(path: str, *holders: Shaped) -> str:
        return f"{path} {' there, '.join(str(list(holder[path].shape)) for holder in holders)}"

    missing = [sizes(path, here) for path in wanted if path not in there]
    misshapen = [
        f"{sizes(path, there, here)} here"
        for path in wanted
        if path in there and here[path].shape != there[path].shape
    ]
    leftover = [sizes(path, there) for path in left if path not in ignored]
    unused = [
        f"{key} {pattern!r}"
        for key, paths in (("init_fresh", list(here)), ("init_ignore", left))
        for pattern in getattr(settings, key)
        if not patterns.matching([pattern], paths)
    ]
    complaints = [
        ("it lacks (train.init_fresh lets them start fresh)", missing),
        ("of another shape (train.init_fresh lets them start fresh)", misshapen),
        ("the model lacks (train.init_ignore leaves them out)", leftover),
        ("patterns that match nothing of these", unused),
    ]
    listed = [f"{what}: {named(paths, ', ')}" for what, paths in complaints if paths]
    if listed:
        raise UserError(f"train.init_from: {source} does not fit the model; {'; '.join(listed)}")
    return Match(tuple(wanted), tuple(sorted(fresh)), tuple(ignored))


def classifier(
    pretrained: Mapping[str, jax.Array], there: Sequence[str], here: Sequence[str]
) -> dict[str, jax.Array]:
    """Puts the classifier's columns into the order of the labels here, if they are the same.

    Returns:
      The arrays that change. With as many but other labels, as after renaming or translating them,
      the classifier is kept as it is and a log line reports it.
    """
    parts = {path: value for path, value in pretrained.items() if path.startswith(CLASSIFIER)}
    there, here = list(there), list(here)
    if not parts or there == here:
        return {}
    if len(set(there)) == len(there) and sorted(there) == sorted(here):
        _log.info("the classifier's columns take the order that the labels have here")
        order = np.array([there.index(name) for name in here])
        return {
            path: jax.jit(lambda v: v[..., order], out_shardings=value.sharding)(value)
            for path, value in parts.items()
        }
    other = [f"{a!r} is {b!r} here" for a, b in zip(there, here, strict=False) if a != b]
    _log.info(
        "the classifier is kept although %d of %d labels have other names (%s): "
        "--config.train.init_fresh=%s starts it fresh",
        *(len(other), len(here), ", ".join(other[:3]), CLASSIFIER),
    )
    return {}
