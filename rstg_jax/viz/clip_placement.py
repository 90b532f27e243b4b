"""Which frames and which region of a video a network receives as its clip."""

from typing import NamedTuple

import numpy as np

from rstg_jax.data import DataConfig, SyncMNISTConfig
from rstg_jax.data.video import crops, frame_sampling


class Placement(NamedTuple):
    """Position of a clip in its video.

    Attributes:
      nearest: The nearest frame of the clip for each frame of the video, int64 `[frames]`.
      sampled: Whether it is that frame itself, bool `[frames]`.
      frames: Number of frames of the clip.
      box: Region that the network receives, `y0 x0 y1 x1` in fractions of the frame.
    """

    nearest: np.ndarray
    sampled: np.ndarray
    frames: int
    box: tuple[float, float, float, float]

    @classmethod
    def whole(cls, frames: int) -> "Placement":
        """A clip that is the whole video."""
        return cls(np.arange(frames), np.ones(frames, bool), frames, (0.0, 0.0, 1.0, 1.0))


def place(config: DataConfig, length: int, size: crops.Size) -> Placement:
    """Finds the centred view of a video, as testing uses it.

    Args:
      config: The data set.
      length: Number of frames of the video.
      size: Width and height of its frames.
    """
    if isinstance(config, SyncMNISTConfig):
        return Placement.whole(length)
    clip = config.clip
    chosen = frame_sampling.view_frames(clip.sampling, length, clip.frames, stride=clip.stride)
    distance = np.abs(np.arange(length)[:, None] - chosen)  # [frames t]
    latest = clip.frames - 1 - distance[:, ::-1].argmin(axis=1)  # the last of equally near ones
    width, height = crops.resized(size, clip.resize)
    box = crops.view_boxes((width, height), clip.view_size or clip.crop, 1)[0]
    return Placement(
        latest,
        distance.min(axis=1) == 0,
        clip.frames,
        (
            box.top / height,
            box.left / width,
            (box.top + box.height) / height,
            (box.left + box.width) / width,
        ),
    )


def network_time(frame: int, frames: int, times: int) -> int:
    """Index of the network output for a frame of its clip; temporal pooling makes fewer of them."""
    return frame * times // frames
