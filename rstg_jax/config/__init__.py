"""Configurations as nested frozen dataclasses: load, override, store, compare.

This folder knows nothing about experiments. A configuration is a tree of frozen dataclasses whose
leaves are int, float, bool, str, None, Literal or (nested) tuples of these. A field may also be a
union of dataclasses, or an abstract dataclass with subclasses; the name of the chosen class is then
stored under the key ``class``.

    experiment = load("configs/sync_mnist.py:demo")
    experiment = override(experiment, {"train.batch_size": "8", "optim.clip_norm": "none"})
    same = from_dict(type(experiment), json.loads(json.dumps(to_dict(experiment))))

Every mistake in a key or a value raises `UserError`; the message contains the full key.
"""

from rstg_jax.config.files import choose, import_modules, load, run_name
from rstg_jax.config.overrides import is_boolean, keys, nearest, override
from rstg_jax.config.stored import (
    check,
    config_hash,
    diff,
    differing,
    from_dict,
    matches,
    to_dict,
)
from rstg_jax.config.values import OFF, ON

__all__ = [
    "OFF",
    "ON",
    "check",
    "choose",
    "config_hash",
    "diff",
    "differing",
    "from_dict",
    "import_modules",
    "is_boolean",
    "keys",
    "load",
    "matches",
    "nearest",
    "override",
    "run_name",
    "to_dict",
]
