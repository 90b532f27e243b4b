"""Whether a run that is to be resumed is still the same: its configuration and its data."""

import logging
from collections.abc import Mapping
from typing import Any

from rstg_jax import config, storage
from rstg_jax.errors import UserError
from rstg_jax.training.experiment import Experiment

# Keys and sections that may differ between a run and its resumption, besides `may_differ` of the
# data: how long, how often, on which devices. A longer cosine schedule changes the rate from here
# on, so the run then differs from one that had this length from the start.
MAY_DIFFER = (
    "name",
    "mesh",
    "train.total_steps",
    "train.total_epochs",
    "train.total_examples",
    "train.eval_batch_size",
    "train.eval_every",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep",
    "train.accumulate",
    "train.max_queued_steps",
    "train.max_seconds",
    "train.on_nan",
)

_log = logging.getLogger(__name__)


def check(
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
        f"{key}: {before} != {now}"
        for key, before, now in config.differing(there, config.to_dict(experiment))
        if not config.matches(key, may_differ)
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
