"""Opens encoded videos of any kind and decodes the frames that are asked for."""

import contextlib
import fractions
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import av
import numpy as np
from PIL import Image, ImageSequence

from rstg_jax.data.video.seek import VideoFrames, readable
from rstg_jax.errors import UserError

# JPEG images in memory, a video file in memory, or a path (see `opened`).
Encoded = tuple[bytes, ...] | bytes | Path

# fmt: off
VIDEO_EXTENSIONS = (".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg",
                    ".mpg", ".ogv", ".ts", ".webm", ".wmv")
# fmt: on
IMAGES = (".apng", ".gif", ".png", ".webp")  # all frames of one file
STILLS = (".jpeg", ".jpg", ".png")  # frames in a directory
_DAMAGE = (av.FFmpegError, OSError, EOFError, SyntaxError)


class Frames(Protocol):
    """The frames of an opened video.

    Attributes:
      fps: Frames per second, or None if that is not known.
    """

    @property
    def fps(self) -> fractions.Fraction | None: ...

    def __len__(self) -> int:
        """Number of frames."""

    def images(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        """The frames of strictly rising indices, in RGB."""


class Images:
    """Frames that are decoded already; satisfies `Frames`."""

    fps = None

    def __init__(self, images: Sequence[Image.Image]):
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def images(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        for index in indices:
            yield self._images[index].convert("RGB")


class Stills:
    """Encoded images, such as JPEG, in memory or on disk; satisfies `Frames`."""

    fps = None

    def __init__(self, encoded: Sequence[bytes | Path]):
        self._encoded = encoded

    def __len__(self) -> int:
        return len(self._encoded)

    def images(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        for index in indices:
            content = self._encoded[index]
            try:
                file = io.BytesIO(content) if isinstance(content, bytes) else content
                with Image.open(file) as image:
                    rgb = image.convert("RGB")
            except _DAMAGE as error:
                raise UserError(f"frame {index} of {len(self)} is damaged: {error}") from error
            yield rgb


@contextlib.contextmanager
def opened(encoded: Encoded) -> Iterator[Frames]:
    """Opens a video.

    Args:
      encoded: JPEG images; the bytes of a video file; or a path: of a video file, an animated
        image, an array (.npy, uint8 [t h w] or [t h w c]), or a directory of images, which are
        taken in the order of their names.

    Raises:
      UserError: It cannot be read or has no frame; also later, from the frames. The message says
        what is wrong but not with which video: the caller knows its name.
    """
    try:
        if isinstance(encoded, tuple):
            yield _not_empty(Stills(encoded))
        elif isinstance(encoded, bytes) or encoded.suffix.lower() in VIDEO_EXTENSIONS:
            if isinstance(encoded, Path) and not encoded.is_file():
                raise UserError("no such file")
            with av.open(readable(encoded), "r") as container:
                if not container.streams.video:
                    raise UserError("has no video stream")
                yield _not_empty(VideoFrames(encoded, container))
        else:
            yield _not_empty(_of_path(encoded))
    except _DAMAGE as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot be read as a video: {reason}") from error


def _of_path(path: Path) -> Frames:
    """Frames of anything but a video file."""
    kind = path.suffix.lower()
    if path.is_dir():
        return Stills(sorted(file for file in path.iterdir() if file.suffix.lower() in STILLS))
    if not path.is_file():
        raise UserError("no such file")
    if kind == ".npy":
        return _of_array(path)
    if kind in IMAGES:
        with Image.open(path) as image:
            return Images([frame.convert("RGB") for frame in ImageSequence.Iterator(image)])
    known = ", ".join((".npy", *IMAGES, *VIDEO_EXTENSIONS))
    raise UserError(f"unknown kind of file; the known ones are {known}")


def _of_array(path: Path) -> Images:
    try:
        array = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise UserError(f"cannot be read as an npy video: {error}") from error
    if array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.dtype != np.uint8 or not (array.ndim == 3 or (array.ndim, array.shape[-1]) == (4, 3)):
        raise UserError(
            f"holds {array.dtype} {list(array.shape)}; a video is uint8 [t h w], [t h w 1] or "
            "[t h w 3]"
        )
    return Images([Image.fromarray(frame) for frame in array])


def _not_empty(frames: Frames) -> Frames:
    if not len(frames):
        raise UserError("holds no frame")
    return frames
