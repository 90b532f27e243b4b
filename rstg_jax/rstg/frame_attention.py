"""Cells that keep earlier frames of a node as they are, and attend to them.

A recurrent state blurs what it has seen; these cells do not, and pay for it with a state that grows
with `memory_span`. A node attends to itself only: frames to regions and back is what space stages
are for. A score is that of query and key plus a learned number for the lag.

window    reads the frame itself and all of the `memory_span` frames before. The numbers begin as
          decays with time constants of 1 to `memory_span` frames, a different one for each head
dilated   reads the frame itself and those 1, 2, 4, 8, ... frames before, up to `memory_span`: edges
          over time whose number grows with the logarithm of what they span. All begin alike

Not in the paper, which names long-range interactions as a limit of its block. The state of a video
is keys and values of the last `memory_span` frames, and which of these there were.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rstg_jax.layers.array_types import Array
from rstg_jax.layers.linear import linear
from rstg_jax.layers.precision import wide_dtype
from rstg_jax.rstg.config import FRAME_HEADS
from rstg_jax.rstg.linear_recurrences import Cell, Declare, Parts, time_constants


def kept_widths(dim: int, memory_span: int) -> tuple[int, ...]:
    """Sizes of the last axis of the state's arrays: keys, values, presence."""
    return memory_span * dim, memory_span * dim, memory_span


def lags_of(memory_span: int) -> tuple[int, ...]:
    """Lags of the cell `dilated`: 0 and the powers of 2 up to the span."""
    return (0, *(1 << k for k in range(memory_span.bit_length())))


def window(declare: Declare, width: int, dim: int, memory_span: int, dtype: Any) -> Cell:
    """Attention to all frames of the window."""
    decays = 1 / time_constants(FRAME_HEADS, memory_span)
    start = -decays[:, None] * np.arange(memory_span + 1)
    return _cell(_attend_to_all, start, declare, width, dim, memory_span, dtype)


def dilated(declare: Declare, width: int, dim: int, memory_span: int, dtype: Any) -> Cell:
    """Attention to few frames of the window, ever farther apart."""
    lags = lags_of(memory_span)
    attend = functools.partial(_attend_to_few, lags)
    start = np.zeros((FRAME_HEADS, len(lags)))
    return _cell(attend, start, declare, width, dim, memory_span, dtype)


CELLS = {"window": window, "dilated": dilated}


def _cell(
    attend: Callable[..., Array],
    start: np.ndarray,
    declare: Declare,
    width: int,
    dim: int,
    memory_span: int,
    dtype: Any,
) -> Cell:
    """Weights and scan of a cell: `attend` is one of those below, `start` the bias `[h lag]`."""

    def lag_bias_init(key: Array, shape: tuple[int, ...]) -> Array:
        del key, shape
        return jnp.asarray(start, jnp.float32)

    kernel_init = nn.initializers.lecun_normal()
    input_kernel = declare("input_kernel", kernel_init, width, 3 * dim).astype(dtype)
    output_kernel = declare("output_kernel", kernel_init, dim, dim).astype(dtype)
    lag_bias = declare("lag_bias", lag_bias_init, *start.shape)

    def run(kept: Parts | None, projected: Array) -> tuple[Parts, Array]:
        query, key, value = jnp.split(projected, 3, axis=-1)  # [t n ... d]
        frames: Parts = (key, value, jnp.ones_like(key[..., :1]))
        if kept is not None:
            before = (frames_first(part, memory_span) for part in kept)
            frames = tuple(
                jnp.concatenate([old.astype(new.dtype), new])
                for old, new in zip(before, frames, strict=True)
            )
        bias = lag_bias.astype(wide_dtype(dtype))
        keys, values, present = frames
        mixed = attend(_heads(query), _heads(keys), _heads(values), present, bias)
        outputs = linear(mixed.reshape(query.shape), output_kernel)
        return tuple(features_last(part, memory_span) for part in frames), outputs

    return run, input_kernel, None


def _attend_to_all(q: Array, k: Array, v: Array, present: Array, bias: Array) -> Array:
    """Attention to each frame and `span` frames before it.

    Long clips are computed in parts of `span` frames, one after another, each of which sees two
    parts of keys: time and memory grow with `t * span`, not with the square of t.

    Args:
      q: queries `[t n ... h e]`.
      k: keys `[s + t n ... h e]`: those of s earlier frames come first.
      v: values, as the keys.
      present: `[s + t n ... 1]`, whether there was such a frame.
      bias: by lag, `[h span + 1]`.

    Returns:
      `[t n ... h e]`.
    """
    t, span, earlier = len(q), bias.shape[1] - 1, len(k) - len(q)
    if earlier + t <= 2 * span:
        return _attend_to_part(q, k, v, present, bias)
    parts = -(-t // span)

    def pairs(x: Array) -> Array:
        """Keys of all parts and of those before, `[parts 2*span n ...]`."""
        x = _pad(x, span - earlier, parts * span - t)
        x = x.reshape(parts + 1, span, *x.shape[1:])
        return jnp.concatenate([x[:-1], x[1:]], axis=1)

    q = _pad(q, 0, parts * span - t)
    arrays = (q.reshape(parts, span, *q.shape[1:]), pairs(k), pairs(v), pairs(present))

    @jax.checkpoint
    def part(arrays: tuple[Array, Array, Array, Array]) -> Array:
        return _attend_to_part(*arrays, bias)

    out = jax.lax.map(part, arrays)  # [parts span n ... h e]
    return out.reshape(-1, *out.shape[2:])[:t]


def _attend_to_part(q: Array, k: Array, v: Array, present: Array, bias: Array) -> Array:
    """The same for few frames at once: the scores of all pairs of frames."""
    lag = len(k) - len(q) + np.arange(len(q))[:, None] - np.arange(len(k))  # [t s]
    inside = (lag >= 0) & (lag < bias.shape[1])
    scores = jnp.einsum("t...he,s...he->...hts", q, k, preferred_element_type=bias.dtype)
    scores = scores / q.shape[-1] ** 0.5 + bias[:, np.where(inside, lag, 0)]
    seen = jnp.moveaxis(present, 0, -1)[..., None, :] > 0  # [n ... 1 1 s]
    weights = nn.softmax(jnp.where(inside & seen, scores, -jnp.inf)).astype(v.dtype)
    return jnp.einsum("...hts,s...he->t...he", weights, v)


def _attend_to_few(
    lags: tuple[int, ...], q: Array, k: Array, v: Array, present: Array, bias: Array
) -> Array:
    """Attention to the frames at some lags; arguments as of `_attend_to_all`."""
    t = len(q)
    more = max(0, lags[-1] - (len(k) - t))
    k, v, present = (_pad(x, more, 0) for x in (k, v, present))

    def at(x: Array, lag: int) -> Array:
        """The frames that lie so far back, `[t n ...]`."""
        return x[len(x) - t - lag : len(x) - lag]

    wide = bias.dtype
    scores = jnp.stack(
        [
            jnp.where(
                at(present, lag) > 0,
                (q * at(k, lag)).sum(axis=-1, dtype=wide) / q.shape[-1] ** 0.5 + bias[:, number],
                -jnp.inf,
            )
            for number, lag in enumerate(lags)
        ]
    )
    weights = nn.softmax(scores, axis=0).astype(v.dtype)[..., None]
    return sum(w * at(v, lag) for w, lag in zip(weights, lags, strict=True))


def _pad(x: Array, before: int, after: int) -> Array:
    """Adds zeros along the frames."""
    return jnp.pad(x, ((before, after), *((0, 0),) * (x.ndim - 1)))


def _heads(x: Array) -> Array:
    return x.reshape(*x.shape[:-1], FRAME_HEADS, -1)


def frames_first(kept: Array, span: int) -> Array:
    """Part of a state `[n ... span*d]` -> `[span n ... d]`."""
    return jnp.moveaxis(kept.reshape(*kept.shape[:-1], span, -1), -2, 0)


def features_last(frames: Array, span: int) -> Array:
    """The last `span` of frames `[t n ... d]` -> part of a state `[n ... span*d]`."""
    frames = _pad(frames, max(0, span - len(frames)), 0)[-span:]
    return jnp.moveaxis(frames, 0, -2).reshape(*frames.shape[1:-1], -1)
