"""Convolution and pooling of frames, lowered in the way that is fast on the backend at hand."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.errors import UserError
from rstg_jax.layers.linear import linear

Lowering = Literal["auto", "xla", "matmul"]
Padding = Literal["SAME", "VALID"]


def multiplies(lowering: Lowering) -> bool:
    """Whether a lowering is "matmul" here: "auto" is, on CPUs."""
    return lowering == "matmul" or (lowering == "auto" and jax.default_backend() == "cpu")


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
        if multiplies(self.lowering):
            return conv_as_matmul(x, kernel, self.stride, self.padding) + bias
        return conv(x, kernel, self.stride, self.padding) + bias


class Conv3D(nn.Module):
    """Convolution over frames, rows and columns, without bias by default.

    Frames are padded so that their number stays (divided by the stride), as everywhere in the
    networks that this is for.

    Attributes:
      features: output channels.
      kernel: frames, rows and columns of the kernel.
      stride: steps along the same axes.
      bias: add one.
      lowering: "xla" is one convolution of three axes. "matmul" joins the frames under the kernel
        along channels, so that what is left is a convolution of single frames, and for kernels of
        one pixel a matrix product; several times faster on CPUs. "auto" takes it there.
    """

    features: int
    kernel: tuple[int, int, int] = (1, 1, 1)
    stride: tuple[int, int, int] = (1, 1, 1)
    bias: bool = False
    lowering: Lowering = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b t h w c]` -> `[b t' h' w' features]`."""
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        shape = (*self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", init, shape).astype(x.dtype)
        run = conv3d_by_frames if multiplies(self.lowering) else conv3d
        x = run(x, kernel, self.stride)
        if not self.bias:
            return x
        return x + self.param("bias", nn.initializers.zeros, (self.features,)).astype(x.dtype)


def conv3d(x: jax.Array, kernel: jax.Array, stride: tuple[int, int, int]) -> jax.Array:
    """XLA's convolution of `[b t h w c]` with kernel `[kt kh kw c f]`, padded by half a kernel."""
    return jax.lax.conv_general_dilated(
        x, kernel, stride, _half(kernel.shape[:3]), dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


def conv3d_by_frames(x: jax.Array, kernel: jax.Array, stride: tuple[int, int, int]) -> jax.Array:
    """The same numbers as `conv3d` from convolutions of single frames."""
    frames, rows, columns, channels, features = kernel.shape
    step = stride[0]
    x = jnp.pad(x, ((0, 0), _half((frames,))[0], (0, 0), (0, 0), (0, 0)))
    length = (x.shape[1] - frames) // step + 1
    taps = [x[:, k : k + step * length : step] for k in range(frames)]
    x = jnp.concatenate(taps, axis=-1) if frames > 1 else taps[0]
    kernel = jnp.moveaxis(kernel, 0, 2).reshape(rows, columns, frames * channels, features)
    if (rows, columns) == (1, 1):
        return linear(x[:, :, :: stride[1], :: stride[2]], kernel[0, 0])
    flat = x.reshape(-1, *x.shape[2:])
    flat = jax.lax.conv_general_dilated(
        flat, kernel, stride[1:], _half((rows, columns)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return flat.reshape(*x.shape[:2], *flat.shape[1:])


def _half(kernel: tuple[int, ...]) -> list[tuple[int, int]]:
    """Padding by half a kernel on both sides of each axis."""
    return [(size // 2, size // 2) for size in kernel]


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


def max_pool3d(
    x: jax.Array,
    window: tuple[int, int, int],
    stride: tuple[int, int, int],
    padding: int = 0,
) -> jax.Array:
    """Maximum over frames, rows and columns of `[b t h w c]`.

    Args:
      x: what to pool.
      window: frames, rows and columns.
      stride: along the same axes.
      padding: rows and columns added on every side, which never win.
    """
    pads = ((0, 0), (padding, padding), (padding, padding))
    if min(x.shape[axis + 1] + sum(pads[axis]) - window[axis] for axis in range(3)) < 0:
        raise UserError(f"model.backbone: {list(x.shape[1:4])} is too small to pool by {window}")
    return nn.max_pool(x, window, stride, pads)


def max_pool(x: jax.Array) -> jax.Array:
    """2x2 maximum with stride 2, odd last rows and columns dropped, `[b h w c]`.

    A maximum of four slices: its gradient is elementwise, where the gradient of a window reduction
    is a slow scatter on CPUs. Ties send their gradient in equal parts to all maxima.
    """
    height, width = (side // 2 * 2 for side in x.shape[1:3])
    rows = jnp.maximum(x[:, 0:height:2], x[:, 1:height:2])
    return jnp.maximum(rows[:, :, 0:width:2], rows[:, :, 1:width:2])
