"""Inputs of a time stage from earlier frames of a node, beside its state. Not in the paper.

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
from rstg_jax.rstg.frame_attention import features_last, frames_first

DIFFERENCE_GAIN = 4.0  # changes from frame to frame are small beside what changes


def width_of_lag(dim: int, lags: Sequence[int]) -> int:
    """Features of the projection that is read of each earlier frame; 0 if there is none."""
    return dim // len(lags) if lags else 0


def wide_zeros(like: Float[Array, "*batch c"], width: int) -> Float[Array, "*batch width"]:
    """Zeros with another number of features, on the devices where `like` lies."""
    return jnp.zeros_like(like[..., :1]) * np.zeros(width, like.dtype)


def zeros(
    like: Float[Array, "*batch c"], dim: int, differences: bool, lags: Sequence[int]
) -> tuple[Array, ...]:
    """The inputs before the first frame: the last node, and for each lag so many projections.

    Args:
      like: the nodes of a frame; what is kept lies on the devices where they do.
      dim: number of features d of the time stage.
      differences: whether differences are read.
      lags: in frames.
    """
    width = width_of_lag(dim, lags)
    last_node = (jnp.zeros_like(like),) * differences
    return (*last_node, *(wide_zeros(like, lag * width) for lag in lags))


def with_differences(
    frames: Float[Array, "t n *batch c"], before: Float[Array, "n *batch c"]
) -> Float[Array, "t n *batch 2*c"]:
    """Appends to the nodes of every frame their change since the frame before.

    Args:
      frames: nodes of all frames.
      before: of the frame before the first one.
    """
    earlier = jnp.concatenate([before[None].astype(frames.dtype), frames[:-1]])
    return jnp.concatenate([frames, DIFFERENCE_GAIN * (frames - earlier)], axis=-1)


def with_lags(
    frames: Float[Array, "t n *batch c"],
    kernel: Float[Array, "c l"],
    lags: Sequence[int],
    kept: Sequence[Array],
) -> tuple[Float[Array, "t n *batch c+l"], tuple[Array, ...]]:
    """Appends to the nodes of every frame projections of earlier frames.

    Args:
      frames: nodes of all frames.
      kernel: of the projections, which have `e = l / len(lags)` features each and lie side by side
        in the order of the lags.
      lags: in frames.
      kept: for each lag, the projections of so many frames before the first one,
        `[n *batch lag*e]`.

    Returns:
      The longer nodes, and what is kept after the last frame.
    """
    late, after = [frames], []
    projected = jnp.split(linear(frames, kernel), len(lags), axis=-1)
    for lag, new, old in zip(lags, projected, kept, strict=True):
        known = jnp.concatenate([frames_first(old, lag).astype(new.dtype), new])
        late.append(known[:-lag])
        after.append(features_last(known, lag).astype(old.dtype))
    return jnp.concatenate(late, axis=-1), tuple(after)
