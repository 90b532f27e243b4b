"""Weights that have a name, for `python -m rstg_jax.predict --weights=NAME`."""

from collections.abc import Callable

from rstg_jax.convert import i3d_jax
from rstg_jax.training.weights import Weights

# Each reads its file when it is called, and says how to get it if it is not there.
KNOWN: dict[str, Callable[[], Weights]] = {"kinetics/i3d": i3d_jax.load}
