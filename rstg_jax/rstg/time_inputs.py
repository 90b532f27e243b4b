"""What a time stage reads of a node's earlier frames beside its state. Not in the paper.

differences   how the node has changed since the frame before
lags          projections of the node as it was some frames ago, each of another number of frames

A recurrent state has to learn to keep what will be compared later; here it is at hand unchanged. It
is kept in the state of a streamed video.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from rstg_jax.layers.array_types import Array, Float
from rstg_jax.layers.linear import linear

DIFFERENCE_GAIN = 4.0  # changes from frame to frame are small beside what changes


def width_of_lag(dim: int, lags: Sequence[int]) -> int:
    """Features of the projection that is read of each earlier frame."""
    return dim // len(lags)


def zeros(
    like: Float[Array, "*batch c"], dim: int, differences: bool, lags: Sequence[int]
) -> tuple[Array, ...]:
    """What is kept before the first frame: the last node, and for each lag so many projections.

    Args:
      like: the nodes of a frame; what is kept lies on the devices where they do.
      dim: number of features d of the time stage.
      differences: whether differences are read.
      lags: in frames.
    """
    kept = [jnp.zeros_like(like)] * differences
    for lag in lags:
        width = lag * width_of_lag(dim, lags)
        kept.append(jnp.zeros_like(like[..., :1]) * np.zeros(width, like.dtype))
    return tuple(kept)


def with_differences(
    nodes: Float[Array, "n t *batch c"], before: Float[Array, "n *batch c"]
) -> Float[Array, "n t *batch 2*c"]:
    """Appends to the nodes of every frame their change since the frame before.

    Args:
      nodes: of all frames.
      before: of the frame before the first one.
    """
    earlier = jnp.concatenate([before[:, None].astype(nodes.dtype), nodes[:, :-1]], axis=1)
    return jnp.concatenate([nodes, DIFFERENCE_GAIN * (nodes - earlier)], axis=-1)


def with_lags(
    nodes: Float[Array, "n t *batch c"],
    kernel: Float[Array, "c l"],
    lags: Sequence[int],
    kept: Sequence[Array],
) -> tuple[Float[Array, "n t *batch c+l"], tuple[Array, ...]]:
    """Appends to the nodes of every frame projections of earlier frames.

    Args:
      nodes: of all frames.
      kernel: of the projections, which have `e = l / len(lags)` features each and lie side by side
        in the order of the lags.
      lags: in frames.
      kept: for each lag, the projections of so many frames before the first one,
        `[n *batch lag*e]`.

    Returns:
      The longer nodes, and what is kept after the last frame.
    """
    late, after = [nodes], []
    for lag, new, old in zip(
        lags, jnp.split(linear(nodes, kernel), len(lags), axis=-1), kept, strict=True
    ):
        earlier = jnp.moveaxis(old.reshape(*old.shape[:-1], lag, -1), -2, 1)  # [n lag *batch e]
        frames = jnp.concatenate([earlier.astype(new.dtype), new], axis=1)
        late.append(frames[:, :-lag])
        after.append(jnp.moveaxis(frames[:, -lag:], 1, -2).reshape(old.shape).astype(old.dtype))
    return jnp.concatenate(late, axis=-1), tuple(after)
