"""A function of single frames over a long clip, a few frames at a time.

Messages are the block's largest arrays: 90 or 196 edges a frame where there are 14 nodes. A few
frames of them fit a CPU's cache, where all frames would go through memory in every pass.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rstg_jax.layers.linear import flattens

CACHED_BYTES = 3_500_000  # of one array in a chunk; measured best from 1.5 to 3.5 MB
RECOMPUTED_BELOW = 256  # narrower products cost less than keeping and reading what they gave


def frames_at_once(wanted: int, frames: int, frame_bytes: int) -> int:
    """How many frames make a chunk: the largest divisor of `frames` that is not above `wanted`.

    Args:
      wanted: 0 chooses by device: what the cache of a CPU holds, all on anything else.
      frames: of the clip.
      frame_bytes: size of the largest array of one frame.
    """
    if not wanted:
        wanted = max(1, CACHED_BYTES // max(frame_bytes, 1)) if flattens() else frames
    return max(count for count in range(1, min(wanted, frames) + 1) if frames % count == 0)


def in_chunks(function: Callable[..., jax.Array], count: int, *arrays: jax.Array) -> jax.Array:
    """`function(*arrays)` of arrays `[m t ...]`, `count` frames at a time.

    Args:
      function: treats every frame by itself; returns `[k t ...]`.
      count: frames of a chunk; divides t.
      arrays: the frames are their second axis.
    """
    frames = arrays[0].shape[1]
    if count == frames:
        return function(*arrays)

    def split(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(len(x), frames // count, count, *x.shape[2:]), 1, 0)

    chunks = jax.lax.map(lambda chunk: function(*chunk), tuple(split(x) for x in arrays))
    out = jnp.moveaxis(chunks, 0, 1)  # [k t/count count ...]
    return out.reshape(len(out), frames, *out.shape[3:])
