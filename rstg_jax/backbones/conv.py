"""Convolution and pooling of frames, lowered in the way that is fast on the backend at hand."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.linear import linear

Lowering = Literal["auto", "xla", "matmul"]
Padding = Literal["SAME", "VALID"]


class Conv2D(nn.Module):
    """3x3-like convolution of every frame with bias; parameters as in `nn.Conv`.

    Attributes:
      features: output channels.
      kernel: rows and columns of the kernel.
      stride: step along rows and columns.
      padding: "SAME" or "VALID".
      lowering: "xla" is XLA's convolution. "matmul" joins shifted slices of the map and multiplies
        once: on CPUs, where XLA's convolution of few channels and its gradients run far below the
        matrix-product peak, this is several times faster; it needs `kernel**2` times the memory of
        the input. "auto" takes "matmul" on CPUs.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    padding: Padding = "SAME"
    lowering: Lowering = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b h w c]` -> `[b h' w' features]`."""
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape).astype(x.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(x.dtype)
        on_cpu = jax.default_backend() == "cpu"
        if self.lowering == "matmul" or (self.lowering == "auto" and on_cpu):
            return conv_as_matmul(x, kernel, self.stride, self.padding) + bias
        return conv(x, kernel, self.stride, self.padding) + bias


def conv(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """XLA's convolution, `[b h w c]` with kernel `[k k c f]`."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def conv_as_matmul(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """The same numbers as `conv`: shifted strided slices joined along channels, one product."""
    size, _, _, features = kernel.shape
    pads = jax.lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), padding)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    height, width = ((side - size) // stride + 1 for side in x.shape[1:3])
    slices = [
        x[:, r : r + stride * height : stride, c : c + stride * width : stride]
        for r in range(size)
        for c in range(size)
    ]
    return linear(jnp.concatenate(slices, axis=-1), kernel.reshape(-1, features))


def max_pool(x: jax.Array) -> jax.Array:
    """2x2 maximum with stride 2, odd last rows and columns dropped, `[b h w c]`.

    A maximum of four slices: its gradient is elementwise, where the gradient of a window reduction
    is a slow scatter on CPUs. Ties send their gradient in equal parts to all maxima.
    """
    height, width = (side // 2 * 2 for side in x.shape[1:3])
    rows = jnp.maximum(x[:, 0:height:2], x[:, 1:height:2])
    return jnp.maximum(rows[:, :, 0:width:2], rows[:, :, 1:width:2])
