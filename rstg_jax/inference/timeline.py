"""Labels over time: a long video is predicted part by part, in memory that does not grow with it.

Windows    Parts of equal length, which may overlap. Each is predicted as if the video were cut to
           it, so any model will do.
Stream     Parts that follow one another. The block's state goes on from each to the next, so that
           the model knows all frames so far; see `VideoClassifier.stream`.

The frames are decoded in order, see `rstg_jax.data.video.parts`; of those decoded, one is held for
each of the windows that lie over each other.
"""

import dataclasses
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rstg_jax.data.video import decode, parts
from rstg_jax.errors import UserError
from rstg_jax.inference.predictor import Predictor
from rstg_jax.rstg.block import State, init_state
from rstg_jax.training import sharding, steps, trained_model


class Timeline(NamedTuple):
    """The most likely labels of each part of a video.

    Attributes:
      frames: Of the video.
      fps: Frames per second.
      bounds: First frame of each part, and the frame after its last, int64 `[n 2]`; both rise.
      labels: Numbers of the most likely labels, best first, int32 `[n k]`.
      probabilities: Of these labels, float32 `[n k]`.
    """

    frames: int
    fps: Fraction
    bounds: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray

    @property
    def edges(self) -> np.ndarray:
        """Times from which on each part is the nearest, and the end, in seconds, `[n + 1]`.

        Parts that overlap meet in the middle of what they share.
        """
        between = (self.bounds[1:, 0] + self.bounds[:-1, 1]) / 2
        return np.array([0, *between, self.frames]) / float(self.fps)


@dataclasses.dataclass(frozen=True)
class Cut:
    """How a video is cut into parts.

    Attributes:
      window: Seconds of a part; as many frames as the model's clips have if None.
      every: Seconds from the start of a window to that of the next; half a window if None.
      stream: Whether the model's state goes on from each part to the next. Parts then follow one
        another.
    """

    window: float | None = None
    every: float | None = None
    stream: bool = False

    def __post_init__(self) -> None:
        for key in ("window", "every"):
            value = getattr(self, key)
            if value is not None and not 0 < value < 1e6:
                raise UserError(f"{key}={value:g} must be above 0 and below 1e6 seconds")
        if self.stream and self.every is not None:
            raise UserError("every is for windows: the parts of a stream follow one another")

    def bounds(self, frames: int, fps: Fraction, clip: int) -> np.ndarray:
        """First frame of each part, and the frame after its last, int64 `[n 2]`.

        The last window ends with the video, and no window is longer than it. The last part of a
        stream may be shorter.

        Args:
          frames: Of the video.
          fps: Frames per second.
          clip: Frames of the model's clips.
        """
        length = clip if self.window is None else max(1, round(self.window * fps))
        if self.stream:
            starts = np.arange(0, frames, length)
        else:
            length = min(length, frames)
            every = -(-length // 2) if self.every is None else max(1, round(self.every * fps))
            starts = np.arange(0, frames - length + every, every).clip(max=frames - length)
        return np.stack([starts, np.minimum(starts + length, frames)], axis=1)


class StreamPredictor:
    """Predicts the parts of a video one after the other. Compiles once per length of parts.

    Args:
      model: A model that can stream.
      top: Number of labels.

    Raises:
      UserError: The model cannot stream.
    """

    def __init__(self, model: trained_model.TrainedModel, top: int):
        if reason := model.experiment.model.cannot_stream_because:
            raise UserError(f"{model.experiment.name} cannot stream: {reason}; leave out --stream")
        # Of the type and on the devices of the states that follow, so that steps compile once.
        start = init_state(model.experiment.model.rstg, 1, jnp.dtype(model.experiment.model.dtype))
        self._start = jax.device_put(start, sharding.replicated(model.mesh))
        self._variables = model.variables
        kind = model.experiment.loss.kind
        self._state: State = ()

        def step(
            variables: Mapping[str, Any], video: jax.Array, state: State
        ) -> tuple[dict[str, jax.Array], State]:
            after: Any = model.module.apply(variables, video[None], state, method="stream")
            (logits, _), state = after
            return jax.tree.map(lambda x: x[0], steps.ranking(logits, top, kind)), state

        self._step = jax.jit(step)

    def begin(self) -> None:
        """Forgets the video before."""
        self._state = self._start

    def best(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Labels and probabilities of the next part, uint8 `[t h w c]`, see `Predictor.best`."""
        best, self._state = self._step(self._variables, video, self._state)
        return np.asarray(best["label"]), np.asarray(best["probability"])


def maker(
    model: trained_model.TrainedModel, cut: Cut, top: int = 5
) -> Callable[[decode.Encoded], Timeline]:
    """Returns a function that makes the timelines of videos.

    Args:
      model: The model.
      cut: Into which parts.
      top: Number of labels of each part.

    Raises:
      UserError: The model cannot stream; the function raises it if a video cannot be read.
    """
    data = model.data.single_view() if cut.stream else model.data
    stream = StreamPredictor(model, top) if cut.stream else None
    best = stream.best if stream else Predictor(model, top).best
    kept = min(top, len(model.label_names))

    def make(video: decode.Encoded) -> Timeline:
        with parts.opened(video) as frames:
            fps = frames.fps or Fraction(data.fps)
            bounds = cut.bounds(len(frames), fps, data.clip_shape[0])
            labels = np.empty((len(bounds), kept), np.int32)
            probabilities = np.empty((len(bounds), kept), np.float32)
            if stream:
                stream.begin()
            for number, (start, stop) in enumerate(bounds.tolist()):
                clip = data.read_video(frames.part(start, stop))
                labels[number], probabilities[number] = best(clip)
            return Timeline(len(frames), fps, bounds, labels, probabilities)

    return make
