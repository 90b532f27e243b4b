"""Convolution and pooling of frames and clips, with faster gradients and lowering on CPUs."""

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.custom_derivatives import SymbolicZero

from rstg_jax.errors import UserError
from rstg_jax.layers.array_types import Array, Float, Shaped
from rstg_jax.layers.linear import flattens, linear

Lowering = Literal["auto", "xla", "matmul"]
Padding = Literal["SAME", "VALID"]
Padding3D = Literal["half", "same"]
Pads = Sequence[tuple[int, int]]
WIDE = 128  # channels from which on matrix products are as fast on a CPU as XLA's convolution
HE_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def multiplies(lowering: Lowering) -> bool:
    """Whether to lower to matrix products; "auto" does so on CPUs."""
    return lowering == "matmul" or (lowering == "auto" and jax.default_backend() == "cpu")


class Conv2D(nn.Module):
    """Convolution of every frame with a square kernel and a bias; parameters as in `nn.Conv`.

    Attributes:
      features: output channels.
      kernel: rows and columns of the kernel.
      stride: step along rows and columns.
      padding: "SAME" or "VALID".
      lowering: "xla" is XLA's convolution. "matmul" is `conv_for_cpus`, which takes matrix products
        of single frames for some of it. "auto" is "matmul" on a single CPU device and "xla"
        elsewhere: on several, each has some of the frames.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    padding: Padding = "SAME"
    lowering: Lowering = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 f"]:
        """Convolves every frame."""
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        by_frames = self.lowering == "matmul" or (self.lowering == "auto" and flattens())
        run = conv_for_cpus if by_frames else conv
        y = run(x, kernel.astype(x.dtype), self.stride, self.padding)
        return y + bias.astype(x.dtype)


class Conv3D(nn.Module):
    """Convolution over frames, rows and columns, without bias by default.

    Attributes:
      features: output channels.
      kernel: frames, rows and columns of the kernel.
      stride: steps along the same axes.
      bias: whether there is a bias.
      padding: "half" a kernel on every side (PyTorch's networks), or TensorFlow's "same", which
        differs from it where the stride is above 1.
      kernel_init: makes the first kernel.
      lowering: "xla" is one convolution over three axes. "matmul" concatenates the frames under the
        kernel along channels, which leaves a convolution of single frames, or a matrix product if
        the kernel is one pixel wide; it is several times faster on CPUs. "auto" is "matmul" on CPUs
        and "xla" elsewhere.
    """

    features: int
    kernel: tuple[int, int, int] = (1, 1, 1)
    stride: tuple[int, int, int] = (1, 1, 1)
    bias: bool = False
    padding: Padding3D = "half"
    kernel_init: nn.initializers.Initializer = HE_FAN_OUT
    lowering: Lowering = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t2 h2 w2 f"]:
        """Convolves clips."""
        shape = (*self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(x.dtype)
        run = conv3d_by_frames if multiplies(self.lowering) else conv3d
        if self.padding == "half":
            pads: Pads = [((size - 1) // 2, size // 2) for size in self.kernel]
        else:
            pads = jax.lax.padtype_to_pads(x.shape[1:4], self.kernel, self.stride, "SAME")
        x = run(x, kernel, self.stride, pads)
        if not self.bias:
            return x
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return x + bias.astype(x.dtype)


class Depthwise(nn.Module):
    """Convolution of every channel by itself, half a kernel of zeros around the clip.

    Attributes:
      kernel: frames, rows and columns.
      stride: steps along the same axes.
    """

    kernel: tuple[int, int, int]
    stride: tuple[int, int, int] = (1, 1, 1)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b t h w c]` -> `[b t' h' w' c]`."""
        shape = (*self.kernel, 1, x.shape[-1])
        kernel = self.param("kernel", HE_FAN_OUT, shape, jnp.float32).astype(x.dtype)
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            self.stride,
            [(size // 2, size // 2) for size in self.kernel],
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
            feature_group_count=x.shape[-1],
        )


def conv3d(
    x: Float[Array, "b t h w c"],
    kernel: Float[Array, "kt kh kw c f"],
    stride: tuple[int, int, int],
    pads: Pads,
) -> Float[Array, "b t2 h2 w2 f"]:
    """XLA's convolution over three axes."""
    return jax.lax.conv_general_dilated(
        x, kernel, stride, pads, dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


def conv3d_by_frames(
    x: Float[Array, "b t h w c"],
    kernel: Float[Array, "kt kh kw c f"],
    stride: tuple[int, int, int],
    pads: Pads,
) -> Float[Array, "b t2 h2 w2 f"]:
    """The same result as `conv3d` from convolutions of single frames."""
    frames, rows, columns, channels, features = kernel.shape
    step = stride[0]
    x = jnp.pad(x, ((0, 0), pads[0], (0, 0), (0, 0), (0, 0)))
    length = (x.shape[1] - frames) // step + 1
    taps = [x[:, k : k + step * length : step] for k in range(frames)]
    x = jnp.concatenate(taps, axis=-1) if frames > 1 else taps[0]
    kernel = jnp.moveaxis(kernel, 0, 2).reshape(rows, columns, frames * channels, features)
    if (rows, columns) == (1, 1):
        return linear(x[:, :, :: stride[1], :: stride[2]], kernel[0, 0])
    flat = x.reshape(-1, *x.shape[2:])
    flat = jax.lax.conv_general_dilated(
        flat, kernel, stride[1:], pads[1:], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return flat.reshape(*x.shape[:2], *flat.shape[1:])


def conv(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c f"], stride: int, padding: Padding
) -> Float[Array, "b h2 w2 f"]:
    """XLA's convolution of every frame."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def conv_for_cpus(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c f"], stride: int, padding: Padding
) -> Float[Array, "b h2 w2 f"]:
    """The same as `conv` in the way that is fastest on a CPU.

    XLA computes the gradient of the kernel as a convolution whose kernel is a whole map. Here it is
    the transpose of `conv_frame_by_frame`, which also is the faster one for wide maps, at 512
    channels by 1.3 to 2.4 times. Forward and reverse mode work, of any order.
    """
    run = conv_frame_by_frame if x.shape[-1] >= WIDE else conv
    return run(x, kernel, stride, padding)


def _conv_jvp(
    stride: int, padding: Padding, primals: tuple[Array, Array], tangents: tuple[Any, Any]
) -> tuple[Array, Array]:
    (x, kernel), (d_x, d_kernel) = primals, tangents
    y = conv_for_cpus(x, kernel, stride, padding)
    d_y = jnp.zeros_like(y)
    if not isinstance(d_x, SymbolicZero):
        d_y += conv(d_x, kernel, stride, padding)
    if not isinstance(d_kernel, SymbolicZero):
        d_y += conv_frame_by_frame(x, d_kernel, stride, padding)
    return y, d_y


conv_for_cpus.defjvp(_conv_jvp, symbolic_zeros=True)


def conv_frame_by_frame(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c f"], stride: int, padding: Padding
) -> Float[Array, "b h2 w2 f"]:
    """The same as `conv` from one matrix product for each frame.

    The pixels under the kernel are gathered for one frame at a time, also in the gradient, so that
    they stay in the cache.
    """
    size, _, _, features = kernel.shape
    pads = jax.lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), padding)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    height, width = ((side - size) // stride + 1 for side in x.shape[1:3])

    @jax.checkpoint
    def one(frame: Array) -> Array:
        under = [
            frame[r : r + stride * height : stride, c : c + stride * width : stride]
            for r in range(size)
            for c in range(size)
        ]
        pixels = jnp.concatenate(under, axis=-1).reshape(height * width, -1)
        return pixels @ kernel.reshape(-1, features)

    return jax.lax.map(one, x).reshape(len(x), height, width, features)


def max_pool3d(
    x: Shaped[Array, "b t h w c"],
    window: tuple[int, int, int],
    stride: tuple[int, int, int],
    pads: Pads = ((0, 0),) * 3,
) -> Shaped[Array, "b t2 h2 w2 c"]:
    """Maximum over windows of frames, rows and columns.

    Args:
      x: clips.
      window: frames, rows and columns.
      stride: steps along the same axes.
      pads: -inf before and behind along the same axes.

    Raises:
      UserError: the clips are smaller than the window.
    """
    if min(x.shape[axis + 1] + sum(pads[axis]) - window[axis] for axis in range(3)) < 0:
        raise UserError(f"feature map {list(x.shape[1:4])} is too small to pool by {window}")
    return nn.max_pool(x, window, stride, tuple(pads))


def max_pool(x: Shaped[Array, "b h w c"]) -> Shaped[Array, "b h2 w2 c"]:
    """2x2 maximum with stride 2; drops odd last rows and columns.

    This is a maximum of four slices, whose gradient is elementwise; the gradient of a window
    reduction is a slow scatter on CPUs. Equal maxima share the gradient equally.
    """
    height, width = (side // 2 * 2 for side in x.shape[1:3])
    rows = jnp.maximum(x[:, 0:height:2], x[:, 1:height:2])
    return jnp.maximum(rows[:, :, 0:width:2], rows[:, :, 1:width:2])
