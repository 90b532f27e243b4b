"""Matrix products of arrays with many axes, written so that no gradient has to transpose them.

The gradient of a product over several axes makes XLA move the contracted axes of large arrays to
one end; a product of two plain matrices is differentiated as it is. So every product here flattens
its array to a matrix first, which costs nothing.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

kernel_init = nn.initializers.glorot_uniform()


def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """`x @ kernel + bias` for `x` `[... in]` and a kernel `[in out]`, `[... out]`."""
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) @ kernel
    rows = rows if bias is None else rows + bias
    return rows.reshape(*x.shape[:-1], kernel.shape[-1])


def constant_product(matrix: np.ndarray, x: jax.Array) -> jax.Array:
    """Combines rows of `x` `[m ...]` by a constant 0/1 matrix `[k m]`, in full precision."""
    constant = jnp.asarray(matrix, x.dtype)
    columns = x.reshape(len(x), math.prod(x.shape[1:]))
    rows = jnp.matmul(constant, columns, precision=jax.lax.Precision.HIGHEST)
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
