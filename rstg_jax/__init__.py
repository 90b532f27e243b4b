"""Recurrent space-time graph networks for video, in JAX and Flax.

The names below are the public interface: the block, and `load` and `load_experiment` for trained
models. Everything else is imported from its module: `rstg_jax.models.classifier` builds whole
classifiers, `rstg_jax.training.train_loop.train` trains them. Importing this package alone does not
load JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rstg_jax.inference.known_weights import load, load_experiment
    from rstg_jax.rstg import RSTG, RSTGConfig, init_state, presets, to_map, to_vec

_OF_WEIGHTS = ("load", "load_experiment")
__all__ = [
    "RSTG",
    "RSTGConfig",
    "init_state",
    "load",
    "load_experiment",
    "presets",
    "to_map",
    "to_vec",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "presets":
        return importlib.import_module("rstg_jax.rstg.presets")
    module = "rstg_jax.inference.known_weights" if name in _OF_WEIGHTS else "rstg_jax.rstg"
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
