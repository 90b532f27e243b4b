"""Writes converted weights as an ordinary checkpoint, of a run before its first step."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from rstg_jax import config, data, files
from rstg_jax.errors import UserError
from rstg_jax.models import classifier
from rstg_jax.training import checkpoint, integrity, train_state, trained_model
from rstg_jax.training.experiment import Experiment

TOTAL_STEPS = 1  # the checkpoint is never trained on; no array depends on it

_log = logging.getLogger(__name__)


def write(
    out: str | Path,
    experiment: Experiment,
    variables: Mapping[str, Any],
    *,
    label_names: Sequence[str],
    video_shape: Sequence[int],
    source: Mapping[str, Any],
) -> None:
    """Writes OUT/checkpoints/0 and OUT/config.json, which `trained_model.load` reads.

    Args:
      out: directory to make; it must not hold checkpoints yet.
      experiment: its model is the one that the variables are for.
      variables: ``params`` and, if the model has batch norm, ``batch_stats``.
      label_names: one for each class.
      video_shape: (t, h, w, c) of the clips that the model is for.
      source: where the weights come from, for the record.

    Raises:
      UserError: the directory is in use or cannot be written, or the variables are not exactly
        those of the model.
    """
    check_free(out)
    module = classifier.build(experiment.model, len(label_names))
    setup = train_state.make_setup(module, experiment.loss, experiment.optim, TOTAL_STEPS)
    wanted = jax.eval_shape(lambda: train_state.init_state(setup, tuple(video_shape), jnp.int32(0)))
    found = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
    trained_model.check_same({"params": wanted.params, "batch_stats": wanted.batch_stats}, found)

    params = jax.tree.map(jnp.asarray, found["params"])
    state = train_state.TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=jax.tree.map(jnp.asarray, found["batch_stats"]),
        opt_state=jax.jit(setup.tx.init)(params),
        ema_params=None if setup.ema_decay is None else params,
        key=jax.random.key_data(jax.random.key(experiment.train.seed)),
    )
    meta = {
        "config": config.to_dict(experiment),
        "label_names": list(label_names),
        "video_shape": list(video_shape),
        "total_steps": TOTAL_STEPS,
        "step": 0,
        "window": {},
        "seconds": 0.0,
        "eval_pending": False,
        "test": None,
        "data": {"weights": dict(source)},
    }
    with checkpoint.Checkpoints(out) as checkpoints:
        files.write_json(Path(out) / "config.json", meta["config"])
        checkpoints.save(0, state, checkpoint.plain(meta), score=None)  # last: then all is there


def check_free(out: str | Path) -> None:
    """Raises `UserError` if the directory holds checkpoints; one that was begun is none."""
    if integrity.steps(Path(out) / "checkpoints"):
        raise UserError(f"{out} already holds checkpoints: choose another --out")


def label_names(
    path: str | None, classes: int, data_config: data.DataConfig | None = None
) -> tuple[str, ...]:
    """Names of the classes: of a file, else of the data, else their numbers.

    Args:
      path: of a file with one name a line.
      classes: how many there are.
      data_config: whose names to take if there is no file; they may be unknown until it is at hand.

    Raises:
      UserError: the file cannot be read, or there are more or fewer names than classes.
    """
    if path is not None:
        try:
            # Editors add a byte order mark in front and empty lines behind.
            names = tuple(Path(path).read_text("utf-8-sig").rstrip().splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read label names from {path}: {error}") from error
    else:
        try:
            source = None if data_config is None else data_config.open("test")
        except UserError as error:
            _log.warning("labels are named by their numbers, because %s", error)
            source = None
        names = tuple(map(str, range(classes))) if source is None else source.label_names
    if len(names) != classes:
        raise UserError(
            f"{path or 'the data of the config'} has {len(names)} labels, the classifier has "
            f"{classes}: give their names with --labels=FILE"
        )
    return names
