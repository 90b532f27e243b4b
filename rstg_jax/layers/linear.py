"""Linear layers on arrays with many axes, lowered in the way that is fast on the devices at hand.

The gradient of a product over several axes makes XLA's CPU compiler move the contracted axes of
large arrays to one end; a product of two plain matrices is differentiated as it is. On a single CPU
device arrays are therefore flattened to matrices first. On several devices flattening would merge
the sharded batch axis with others, and activations would have to be gathered.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

kernel_init = nn.initializers.glorot_uniform()


def flattens() -> bool:
    """Whether products are of plain matrices: on a single CPU device."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """`x @ kernel + bias` for `x` `[... in]` and a kernel `[in out]`, `[... out]`."""
    if not flattens():
        return x @ kernel if bias is None else x @ kernel + bias
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) @ kernel
    rows = rows if bias is None else rows + bias
    return rows.reshape(*x.shape[:-1], kernel.shape[-1])


def constant_product(matrix: np.ndarray, x: jax.Array) -> jax.Array:
    """Combines rows of `x` `[m ...]` by a constant 0/1 matrix `[k m]`, in full precision."""
    constant, precision = jnp.asarray(matrix, x.dtype), jax.lax.Precision.HIGHEST
    if not flattens():
        return jnp.tensordot(constant, x, 1, precision=precision)
    columns = x.reshape(len(x), math.prod(x.shape[1:]))
    rows = jnp.matmul(constant, columns, precision=precision)
    return rows.reshape(len(matrix), *x.shape[1:])


class DenseWeights(nn.Module):
    """Kernel and bias of one linear layer, handed out instead of applied."""

    shape: tuple[int, int]

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        kernel = self.param("kernel", kernel_init, self.shape)
        return kernel, self.param("bias", nn.initializers.zeros, self.shape[1:])


def dense_weights(
    module: nn.Module, name: str, shape: tuple[int, int], dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """Declares the linear layer `name` below `module`; kernel `[in out]` and bias, in `dtype`."""
    kernel, bias = DenseWeights(shape, name=name, parent=module)()
    return kernel.astype(dtype), bias.astype(dtype)
