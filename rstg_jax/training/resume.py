"""The start of a training run.

A run whose working directory has a checkpoint is resumed. Otherwise it begins with the weights of
`train.init_from`, at step 0 with a fresh optimiser, or else from scratch. A run that began with
such weights does not read them again once it has a checkpoint of its own.
"""

import logging
from collections.abc import Mapping
from typing import Any

import jax

from rstg_jax import config, files, storage
from rstg_jax.errors import UserError
from rstg_jax.training import agreement, init_from, train_state
from rstg_jax.training.experiment import Experiment
from rstg_jax.training.run import COUNTS, Progress, Run

# Keys that may differ between a run and its resumption, besides `may_differ` of the data: how long,
# how often, on which devices. A longer cosine schedule changes the rate from here on, so the run
# then differs from one that had this length from the start.
MAY_DIFFER = (
    "name",
    "mesh.",
    "train.total_",
    "train.eval_",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep",
    "train.accumulate",
    "train.max_queued_steps",
    "train.max_seconds",
    "train.on_nan",
)

_log = logging.getLogger(__name__)


def start(run: Run) -> Progress:
    """Resumes from the newest checkpoint, or begins: with given weights, or from scratch.

    Raises:
      UserError: the checkpoint is of another config, or has trained longer than this one would;
        another process sees another one; or the given weights do not fit.
    """
    latest = run.checkpoints.latest
    # A file system that is not shared, or is slow to show a new file, has another one.
    agreement.check_same({"the newest checkpoint in --workdir": latest})
    progress = _begin(run) if latest is None else from_checkpoint(run, latest)
    if jax.process_index() == 0:
        files.write_json(run.workdir / "config.json", config.to_dict(run.experiment))
    return progress


def _begin(run: Run) -> Progress:
    settings = run.experiment.train
    pretrained, init_source = None, None
    if settings.init_from:
        labels = run.train_source.label_names
        pretrained, init_source = init_from.weights(settings, run.abstract.variables, labels)
    state = train_state.create_state(
        run.setup, run.video_shape, settings.seed, run.mesh, pretrained
    )
    return Progress(state, init_source=init_source)


def from_checkpoint(run: Run, step: int) -> Progress:
    """The progress of a run that goes on from one of its checkpoints; raises as `start` does."""
    meta = run.checkpoints.run_meta(step)
    check_same(run.experiment, run.provenance, meta, run.workdir)
    if step > run.total_steps:
        raise UserError(
            f"{run.workdir} has already trained {step} steps, more than {run.total_steps}"
        )
    return Progress(
        state=run.checkpoints.restore(step, run.abstract),
        step=step,
        window=meta["window"],
        seconds=meta["seconds"],
        resumed=True,
        init_source=meta.get("init_source"),
        eval_pending=meta["eval_pending"] and run.checkpoints.score(step) is None,
        best=run.checkpoints.best_score,
        **{name: meta.get(name, 0) for name in COUNTS},
    )


def check_same(
    experiment: Experiment,
    provenance: Mapping[str, Any],
    meta: Mapping[str, Any],
    workdir: str | storage.Path,
) -> None:
    """Raises `UserError` naming every harmful difference to a checkpoint's config or data.

    A key that is missing in the checkpoint counts as having its default.
    """
    there = meta["config"]
    try:
        there = config.to_dict(config.from_dict(Experiment, there))
    except UserError as error:
        _log.info("the checkpoint's config is of another version: %s", error)
    may_differ = (*MAY_DIFFER, *(f"data.{name}" for name in experiment.data.may_differ))
    differences = [
        line
        for line in config.diff(there, config.to_dict(experiment))
        if not line.startswith(may_differ)
    ]
    changed = _changed_data(meta["data"], provenance)
    if not differences and not changed:
        return
    names = there.get("name"), experiment.name
    what, hint = "another config", "use another --workdir, or the same config"
    if names[0] != names[1]:
        what = "{!r}, not {!r}".format(*names)
    elif not differences:
        what = "other data"
        hint = (
            "a run goes on with the data that it began with: take away what was added or repaired, "
            f"or begin another --workdir with its weights: --config.train.init_from={workdir}"
        )
    raise UserError(
        f"{workdir} holds a checkpoint of {what} (there != here): "
        f"{'; '.join([*differences, *changed])}; {hint}"
    )


def _changed_data(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """How data have changed, by their checksums; they may have moved."""
    lines = [line for line in config.diff(dict(there), dict(here)) if "sha256" in line]
    for number, line in enumerate(lines):
        split, _, sums = line.partition(".files_sha256: ")
        if sums:
            before, now = (data.get(split, {}).get("examples") for data in (there, here))
            lines[number] = f"the set of {split} videos, {before} before and {now} now ({line})"
    return lines
