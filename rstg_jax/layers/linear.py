"""Linear layers with a faster matrix layout on a single CPU device.

XLA's CPU compiler transposes large arrays to differentiate a product over several axes, but not
to differentiate a product of two plain matrices. On a single CPU device arrays are therefore
flattened to matrices first. On several devices flattening would merge the sharded batch axis with
others, and activations would have to be gathered.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rstg_jax.layers.array_types import Array, Float, Shaped

kernel_init = nn.initializers.glorot_uniform()


class Dense(NamedTuple):
    """Weights of one linear layer.

    Attributes:
      kernel: `[in out]`.
      bias: `[out]`.
    """

    kernel: Array
    bias: Array


def flattens() -> bool:
    """Whether arrays are flattened to matrices: on a single CPU device."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def linear(
    x: Float[Array, "*batch in"],
    kernel: Float[Array, "in out"],
    bias: Float[Array, " out"] | None = None,
) -> Float[Array, "*batch out"]:
    """Returns `x @ kernel + bias`."""
    if not flattens():
        return x @ kernel if bias is None else x @ kernel + bias
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) @ kernel
    rows = rows if bias is None else rows + bias
    return rows.reshape(*x.shape[:-1], kernel.shape[-1])


def constant_product(
    matrix: Shaped[np.ndarray, "k m"], x: Float[Array, "m *batch"]
) -> Float[Array, "k *batch"]:
    """Combines the rows of `x` by a constant 0/1 matrix, in full precision."""
    constant, precision = jnp.asarray(matrix, x.dtype), jax.lax.Precision.HIGHEST
    if not flattens():
        return jnp.tensordot(constant, x, 1, precision=precision)
    columns = x.reshape(len(x), math.prod(x.shape[1:]))
    rows = jnp.matmul(constant, columns, precision=precision)
    return rows.reshape(len(matrix), *x.shape[1:])


def pool_frames(
    matrix: Shaped[np.ndarray, "n m"], frames: Float[Array, "*batch m c"]
) -> Float[Array, "n *batch c"]:
    """Combines the pixels of every frame by constant weights; the combinations go first.

    On a single CPU device this is one product for each frame, so that only the few results change
    their place in memory and not all pixels, and in the gradient likewise.
    """
    constant = jnp.asarray(matrix, frames.dtype)
    if not flattens():
        return jnp.einsum("nm,...mc->n...c", constant, frames)
    pixels = frames.reshape(-1, *frames.shape[-2:])
    each = jnp.broadcast_to(constant, (pixels.shape[0], *constant.shape))
    rows = jnp.einsum("fnm,fmc->fnc", each, pixels)
    rows = rows.reshape(*frames.shape[:-2], len(constant), frames.shape[-1])
    return jnp.moveaxis(rows, -2, 0)


class DenseWeights(nn.Module):
    """Declares the kernel and the bias of one linear layer and returns them."""

    shape: tuple[int, int]

    @nn.compact
    def __call__(self) -> Dense:
        kernel = self.param("kernel", kernel_init, self.shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, self.shape[1:], jnp.float32)
        return Dense(kernel, bias)


class DenseGroup(nn.Module):
    """Declares several linear layers under one name and returns their weights by name."""

    shapes: Mapping[str, tuple[int, int]]

    @nn.compact
    def __call__(self, dtype: Any) -> dict[str, Dense]:
        return {
            name: dense_weights(self, name, shape, dtype) for name, shape in self.shapes.items()
        }


def dense_weights(module: nn.Module, name: str, shape: tuple[int, int], dtype: Any) -> Dense:
    """Declares the linear layer `name` as a child of `module`; returns its weights in `dtype`."""
    kernel, bias = DenseWeights(shape, name=name, parent=module)()
    return Dense(kernel.astype(dtype), bias.astype(dtype))
