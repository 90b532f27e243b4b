"""MFNet's motion block: differences between neighbouring frames at five offsets.

After the paper (Lee et al. 2018); no code of it is published. "C" of MFNet-C stands for its way of
joining, concatenation. Where blocks are, and that nothing moves behind the last frame, is ours.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.layers.conv import Conv3D, Lowering
from rstg_jax.layers.norms import BatchNorm

OFFSETS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))  # rows and columns
REDUCTION = 16


class MotionBlock(nn.Module):
    """A map and its motion, concatenated and brought back to the channels of the map.

    Attributes:
      lowering: see `Conv3D`.
    """

    lowering: Lowering = "auto"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """`[b t h w c]` -> the same shape."""
        channels = x.shape[-1]
        few = Conv3D(max(1, channels // REDUCTION), lowering=self.lowering, name="reduce")(x)
        x = jnp.concatenate([x, *differences(few)], axis=-1)
        x = Conv3D(channels, lowering=self.lowering, name="join")(x)
        norm = BatchNorm((0, 1, 2, 3), True, epsilon=1e-5, momentum=0.9, name="join_bn")
        return nn.relu(norm(x, train=train))


def differences(x: jax.Array) -> list[jax.Array]:
    """The next frame, moved by each of `OFFSETS`, minus this one; zeros for the last frame.

    Zeros also come in at the border that the frame moves away from.

    Args:
      x: `[b t h w c]`.
    """
    height, width = x.shape[2:4]
    following = jnp.pad(x[:, 1:], ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    moved = [
        following[:, :, 1 - row : 1 - row + height, 1 - column : 1 - column + width]
        for row, column in OFFSETS
    ]
    last = ((0, 0), (0, 1), (0, 0), (0, 0), (0, 0))
    return [jnp.pad(y - x[:, :-1], last) for y in moved]
