"""Whether all processes of a job were given the same, before they do anything together.

Nothing else would notice: a process with another learning rate or another video trains beside the
others, and its part of the weights is saved with theirs.
"""

import json
from collections.abc import Mapping
from typing import Any

import jax

from rstg_jax import config, data, processes
from rstg_jax.errors import UserError, named
from rstg_jax.training.experiment import Experiment

Facts = Mapping[str, Any]
_MOST = 3  # processes, and differences of each, that a message names


def check(experiment: Experiment, sources: Mapping[str, data.Source]) -> None:
    """Raises `UserError`, in all processes, unless all have the same configuration and data.

    Where the data lie and how they are loaded may differ, see `DataConfig.may_differ`.

    Args:
      experiment: the configuration.
      sources: the splits by name.
    """
    check_same(facts(experiment, sources), tuple(f"data.{k}" for k in experiment.data.may_differ))


def check_same(here: Facts, may_differ: tuple[str, ...] = ()) -> None:
    """Raises `UserError`, in all processes, unless all know the same; all of them must ask.

    Args:
      here: what this process knows, in dicts, lists and scalars of JSON.
      may_differ: dotted keys and sections that are not compared.
    """
    ours = json.dumps(here)
    first = processes.of_the_first(ours)
    told = ""
    if ours != first:
        found = differences(json.loads(first), json.loads(ours), may_differ)
        told = f"process {jax.process_index()}: {named(found, most=_MOST)}" if found else ""
    if told_by_all := processes.of_all(told):
        raise UserError(
            f"{named(told_by_all, most=_MOST)}; give all processes the same code, flags and data"
        )


def facts(experiment: Experiment, sources: Mapping[str, data.Source]) -> dict[str, Any]:
    """What all processes must agree on: configuration, labels and videos."""
    plain = config.to_dict(experiment)
    # Fields of the data that choose the test views may differ in `may_differ`, but not here.
    known: dict[str, Any] = {**plain, "the protocol": experiment.data.protocol}
    for split, source in sources.items():
        names = source.label_names
        known |= {
            f"the number of {split} videos": len(source),
            f"the number of {split} labels": len(names),
            **{f"label {number} of the {split} videos": name for number, name in enumerate(names)},
            **{
                f"{key} of the {split} videos": value
                for key, value in source.provenance.items()
                if "sha256" in key
            },
        }
    return {**known, "the version of JAX": jax.__version__}


def differences(first: Facts, here: Facts, may_differ: tuple[str, ...] = ()) -> list[str]:
    """A part of a sentence for each fact that is another one in process 0; see `check_same`."""
    return [
        f"{key} is {ours}, process 0 has {theirs}"
        for key, ours, theirs in config.differing(dict(here), dict(first))
        if not config.matches(key, may_differ)
    ]
