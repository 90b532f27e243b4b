"""Reads a video file into the frames that a model takes.

The rule: all frames of the file, in order, whatever their number; each frame in grey
(ITU-R 601, as Pillow's "L") for a model of one channel, in RGB for one of three; then stretched
to the model's height and width with an antialiased bilinear filter, its shape not kept. Values
stay 0..255.
"""

from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from rstg_jax.errors import UserError

MODES = {1: "L", 3: "RGB"}
IMAGES = (".gif", ".webp", ".png", ".apng")
FILMS = (".mp4", ".webm", ".avi", ".mkv", ".mov")


def read(path: str | Path, height: int, width: int, channels: int) -> np.ndarray:
    """Reads a file by the rule above.

    Args:
      path: .npy (uint8 [t h w] or [t h w c]), an animated image, or a film.
      height: of the model's frames, in pixels.
      width: of the same.
      channels: 1 or 3.

    Returns:
      uint8 [t height width channels].

    Raises:
      UserError: the file is missing, damaged, empty or of an unknown kind; it is named.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    kind = path.suffix.lower()
    try:
        if kind == ".npy":
            frames = _from_array(path)
        elif kind in IMAGES:
            with Image.open(path) as image:
                frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]
        elif kind in FILMS:
            with av.open(str(path)) as film:
                frames = [frame.to_image() for frame in film.decode(video=0)]
        else:
            known = ", ".join((".npy", *IMAGES, *FILMS))
            raise UserError(f"{path}: unknown kind of file; the known ones are {known}")
    except (OSError, UnidentifiedImageError, av.FFmpegError, IndexError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read as {kind[1:]}: {reason}") from error
    if not frames:
        raise UserError(f"{path}: holds no frame")
    return np.stack([_fit(frame, height, width, channels) for frame in frames])


def _from_array(path: Path) -> list[Image.Image]:
    try:
        array = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as an npy video: {error}") from error
    if array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.dtype != np.uint8 or not (array.ndim == 3 or (array.ndim, array.shape[-1]) == (4, 3)):
        raise UserError(
            f"{path}: holds {array.dtype} {list(array.shape)}; a video is uint8 [t h w], "
            "[t h w 1] or [t h w 3]"
        )
    return [Image.fromarray(frame) for frame in array]


def _fit(frame: Image.Image, height: int, width: int, channels: int) -> np.ndarray:
    """One frame as uint8 [height width channels]."""
    frame = frame.convert(MODES[channels])
    if frame.size != (width, height):
        frame = frame.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(frame).reshape(height, width, channels)
