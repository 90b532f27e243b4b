"""Reads a video file into what a trained model takes.

A model of clips gets what testing would give it of the same file: the frames, the resizing and the
crops of its `ClipConfig`. A model of SyncMNIST, whose videos are small and whole, gets all frames
in order, whatever their number, in grey (ITU-R 601, as Pillow's "L") if it has one channel,
stretched to its height and width with an antialiased bilinear filter. Values stay 0..255.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from rstg_jax.data import DataConfig, SyncMNISTConfig
from rstg_jax.data.video import clip_transforms, decode
from rstg_jax.errors import UserError

MODES = {1: "L", 3: "RGB"}


def read(path: str | Path, data: DataConfig, shape: tuple[int, ...]) -> np.ndarray:
    """Reads a file by the rule above.

    Args:
      path: a film, an animated image, an array (.npy, uint8 [t h w] or [t h w c]), or a directory
        of images in the order of their names.
      data: what the model was trained on.
      shape: of the videos that the model was trained on, `(t, h, w, c)`.

    Returns:
      uint8 [t h w c], or [v t h w c] with several views.

    Raises:
      UserError: the file is missing, damaged, empty or of an unknown kind; it is named.
    """
    try:
        with decode.opened(Path(path)) as frames:
            return of_frames(frames, data, shape)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def of_frames(frames: decode.Frames, data: DataConfig, shape: tuple[int, ...]) -> np.ndarray:
    """`read` for a video that is open already; errors do not name it."""
    if not isinstance(data, SyncMNISTConfig):
        return clip_transforms.testing_views(frames, data.clip)
    images = frames.images(range(len(frames)))
    return np.stack([_fit(image, *shape[1:]) for image in images])


def _fit(frame: Image.Image, height: int, width: int, channels: int) -> np.ndarray:
    """One frame as uint8 [height width channels]."""
    frame = frame.convert(MODES[channels])
    if frame.size != (width, height):
        frame = frame.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(frame).reshape(height, width, channels)
