"""Delayed synchrony: one digit of the pair repeats the steps of the other one, D frames later.

Ours, to measure memory: the published law of motion has no delay. Every digit wanders in a square
of its own, half as wide as its free space, by steps that a side of the square reflects. Nothing but
the repetition tells the pair from others: all digits have the same law, whatever the delay, and at
D = 0 too. The first digit of the pair leads, and wandered already before the video begins.

All of a clip is computed at once, by operations that NumPy and JAX arrays share.
"""

from collections.abc import Callable
from typing import Any

from rstg_jax.data.sync_mnist.canvas import MAX_CORNER, MAX_STEP

BOX = 36  # side of a digit's square in pixels of the canvas; a walk forgets its place in 7 frames


def move(
    xp: Any,
    below: Callable[[Any, int], Any],
    squares: Any,
    starts: Any,
    steps: Any,
    delayed: Any,
    delay: int,
) -> Any:
    """Random bits -> corners of sprites, int `[... t n 2]` of 0..71.

    Args:
      xp: `numpy` or `jax.numpy`.
      below: Turns random bits into integers of 0..bound-1.
      squares: Bits of the squares' places, `[... n 2]`.
      starts: Bits of the places in them before the first step, `[... n 2]`.
      steps: Bits of the steps, `[... t+delay n 2]`: the first `delay` of them lie before the video.
      delayed: Whether the second digit repeats the first one's steps, bool `[...]`.
      delay: D.
    """
    frames = steps.shape[-3] - delay
    start = below(starts, 2 * BOX)[..., None, :, :]
    path = start + (below(steps, 2 * MAX_STEP + 1) - MAX_STEP).cumsum(-3)
    walk = BOX - abs(path % (2 * BOX) - BOX)  # reflected at 0 and at BOX
    here, before = walk[..., delay:, :, :], walk[..., :frames, :, :]
    second = xp.where(delayed[..., None, None, None], before[..., :1, :], here[..., 1:2, :])
    walk = xp.concatenate([here[..., :1, :], second, here[..., 2:, :]], axis=-2)
    return below(squares, MAX_CORNER - BOX + 1)[..., None, :, :] + walk
