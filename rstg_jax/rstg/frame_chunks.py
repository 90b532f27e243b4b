"""Applies a function of single frames to a long clip, a few frames at a time.

Messages are the largest arrays of the block: 90 or 196 edges per frame of 14 nodes. A few frames of
them fit into a CPU's cache; those of a whole clip would pass through main memory again and again.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rstg_jax.layers.array_types import Array, Shaped
from rstg_jax.layers.linear import flattens

CACHED_BYTES = 3_500_000  # of one array in a chunk; measured best from 1.5 to 3.5 MB
RECOMPUTED_BELOW = 256  # features; narrower products are cheaper to recompute than to store


def frames_at_once(wanted: int, frames: int, frame_bytes: Any) -> int:
    """Returns the frames per chunk: the largest divisor of `frames` that is at most `wanted`.

    Args:
      wanted: 0 chooses by device: as many as fit into the cache of a CPU, all on other devices.
      frames: length of the clip.
      frame_bytes: size of the largest array of one frame, an integer; or a symbol of `jax.export`,
        of which nothing is known.
    """
    if not wanted:
        cached = flattens() and isinstance(frame_bytes, int)
        wanted = max(1, CACHED_BYTES // max(frame_bytes, 1)) if cached else frames
    return max(count for count in range(1, min(wanted, frames) + 1) if frames % count == 0)


def map_frames(
    function: Callable[..., Array], count: int, *arrays: Shaped[Array, "_ t ..."]
) -> Shaped[Array, "_ t ..."]:
    """Computes `function(*arrays)` in chunks of `count` frames.

    Args:
      function: takes arrays `[m t ...]`, treats every frame independently, returns `[k t ...]`.
      count: frames per chunk, a divisor of t.
      *arrays: frames are the second axis.
    """
    frames = arrays[0].shape[1]
    if count == frames:
        return function(*arrays)

    def split(x: Array) -> Array:
        return jnp.moveaxis(x.reshape(len(x), frames // count, count, *x.shape[2:]), 1, 0)

    chunks = jax.lax.map(lambda chunk: function(*chunk), tuple(split(x) for x in arrays))
    out = jnp.moveaxis(chunks, 0, 1)  # [k t/count count ...]
    return out.reshape(len(out), frames, *out.shape[3:])
