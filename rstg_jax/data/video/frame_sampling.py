"""Samples the frames of a clip from a video.

Three rules, each for training and for m temporal views in testing; short videos repeat frames.

linspace  `linspace(0, n - 1, t)` truncated, the official rule, the same in training. View s of m is
          shifted by `round(s * n / (m * t))` and stops at the last frame.
segments  The video is cut into t equal segments; training draws one frame of each, testing takes
          the one at its centre (view s of m: at the fraction (2 s + 1) / 2 m). As in TSN
          (arXiv 1608.00859). With "starts" the first of two views takes the centres and the
          second the starts, as in TSM (`twice_sample` of mit-han-lab/temporal-shift-module).
stride    t frames, `stride` apart; training draws the start, testing spreads the starts evenly
          (one view: the middle). As in SlowFast (arXiv 1812.03982).
"""

from typing import Literal

import numpy as np

Rule = Literal["linspace", "segments", "stride"]
Views = Literal["even", "starts"]


def view_frames(
    rule: Rule,
    length: int,
    frames: int,
    *,
    stride: int = 1,
    view: int = 0,
    views: int = 1,
    places: Views = "even",
) -> np.ndarray:
    """Frames of one temporal view in testing.

    Args:
      rule: See the module's docstring.
      length: Frames of the video, at least 1.
      frames: Frames of the clip.
      stride: Distance of the clip's frames, for the rule "stride".
      view: Which view, from 0.
      views: Number of views.
      places: Of the views in segments: "even", or "starts" for two views.

    Returns:
      Indices int64 [frames], never falling.
    """
    if rule == "linspace":
        # NumPy rounds halves to even, as the official shift does: 32 frames give no shift.
        shift = int(np.round(view * length / (views * frames)))
        return _linspace(length, frames, shift)
    if rule == "segments" and places == "starts":
        return (2 * np.arange(frames, dtype=np.int64) + 1 - view) * length // (2 * frames)
    if rule == "segments":
        steps = 2 * views * np.arange(frames, dtype=np.int64) + 2 * view + 1
        return steps * length // (2 * views * frames)
    slack = max(0, length - _span(frames, stride))
    start = slack // 2 if views == 1 else slack * view // (views - 1)
    return _strided(length, frames, stride, start)


def train_frames(
    rule: Rule, length: int, frames: int, draws: np.ndarray, *, stride: int = 1
) -> np.ndarray:
    """Frames of a training clip.

    Args:
      rule: See the module's docstring.
      length: Frames of the video, at least 1.
      frames: Frames of the clip.
      draws: float64 [frames] in [0, 1). "segments" uses all, "stride" the first, "linspace" none.
      stride: Distance of the clip's frames, for the rule "stride".

    Returns:
      Indices int64 [frames], never falling.
    """
    if rule == "linspace":
        return _linspace(length, frames, 0)
    if rule == "segments":
        places = ((np.arange(frames) + draws) * (length / frames)).astype(np.int64)
        return np.minimum(places, length - 1)
    starts = max(0, length - _span(frames, stride)) + 1
    return _strided(length, frames, stride, int(draws[0] * starts))


def _linspace(length: int, frames: int, shift: int) -> np.ndarray:
    places = np.linspace(shift, length - 1 + shift, frames, dtype=np.int64)
    return np.minimum(places, length - 1)


def _span(frames: int, stride: int) -> int:
    """Frames from the first of a strided clip to its last."""
    return (frames - 1) * stride + 1


def _strided(length: int, frames: int, stride: int, start: int) -> np.ndarray:
    return np.minimum(start + stride * np.arange(frames, dtype=np.int64), length - 1)
