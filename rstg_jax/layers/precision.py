"""The precision of sums and statistics: float32 at least, also in a network of bfloat16."""

from typing import Any

import jax.numpy as jnp

from rstg_jax.layers.array_types import Array


def wide_dtype(dtype: Any) -> Any:
    """float32, or float64 if `dtype` is: of statistics, softmax and linear recurrences."""
    return jnp.promote_types(dtype, jnp.float32)


def widened(x: Array) -> Array:
    """`x` in its `wide_dtype`."""
    return x.astype(wide_dtype(x.dtype))
