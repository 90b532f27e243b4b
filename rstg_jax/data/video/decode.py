"""Opens encoded videos of any kind and decodes the frames that are asked for."""

import contextlib
import dataclasses
import fractions
import functools
import io
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps

from rstg_jax import limits
from rstg_jax.data.video.damage import reading
from rstg_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Segment:
    """Some frames of a video on disk, as many of them as it has.

    Attributes:
      path: See `opened`.
      frames: Their numbers, which rise.
    """

    path: Path
    frames: range


# JPEG images in memory or on disk, a video file in memory, or a path (see `opened`), or part of it.
Encoded = tuple[bytes, ...] | tuple[Path, ...] | bytes | Path | Segment

# fmt: off
VIDEO_EXTENSIONS = (".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".m2t",
                    ".m2ts", ".m2v", ".m4v", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg",
                    ".mts", ".mxf", ".ogv", ".qt", ".ts", ".vob", ".webm", ".wmv")
# fmt: on
IMAGES = (".apng", ".gif", ".png", ".webp")  # all frames of one file
STILLS = (".jpeg", ".jpg", ".png")  # frames in a directory


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


class ArrayFrames:
    """Frames of an array, uint8 [t h w] or [t h w 3], which may lie on disk; satisfies `Frames`."""

    fps = None

    def __init__(self, array: np.ndarray):
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    def images(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        for index in indices:
            yield Image.fromarray(np.array(self._array[index])).convert("RGB")


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
            with reading(f"frame {index} of {len(self)} is damaged"):
                file = io.BytesIO(content) if isinstance(content, bytes) else content
                with _image(file) as image:
                    limits.check_pixels(*image.size)
                    rgb = ImageOps.exif_transpose(_eight_bits(image)).convert("RGB")
            yield rgb


def _image(file: io.BytesIO | Path) -> Image.Image:
    """Opens an image; of a segment, nobody has looked whether it is there."""
    try:
        return Image.open(file)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such file") from error


class Animation:
    """The frames of an animated image, decoded one after the other; satisfies `Frames`.

    Its pace is that of the first frame.
    """

    def __init__(self, path: Path):
        self._path = path
        with Image.open(path) as image:
            limits.check_pixels(*image.size)
            self._length = getattr(image, "n_frames", 1)

    @functools.cached_property
    def fps(self) -> fractions.Fraction | None:
        with Image.open(self._path) as image:
            with reading(f"frame 0 of {len(self)} is damaged"):
                image.load()  # WebP says only then how long a frame is shown
            milliseconds = fractions.Fraction(image.info.get("duration", 0))
        return 1000 / milliseconds.limit_denominator(1000) if milliseconds >= 1 else None

    def __len__(self) -> int:
        return self._length

    def images(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        # Opened anew: Pillow cannot go back in an animated PNG.
        with reading():
            image = Image.open(self._path)
        with image:
            for index in indices:
                with reading(f"frame {index} of {len(self)} is damaged"):
                    image.seek(index)
                    rgb = _eight_bits(image).convert("RGB")
                yield rgb


class SegmentFrames:
    """Some frames of a video; satisfies `Frames`."""

    def __init__(self, video: Frames, frames: range):
        self.fps, self._video = video.fps, video
        self._frames = range(len(video))[frames.start : frames.stop : frames.step]

    def __len__(self) -> int:
        return len(self._frames)

    def images(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        return self._video.images([self._frames[index] for index in indices])


@contextlib.contextmanager
def opened(encoded: Encoded) -> Iterator[Frames]:
    """Opens a video.

    Args:
      encoded: JPEG images or their paths; the bytes of a video file; or a path: of a video file, an
        animated image, an array (.npy, uint8 [t h w] or [t h w c]), or a directory of images, which
        are taken in the order of their names.

    Raises:
      UserError: It cannot be read or has no frame; also later, from the frames. The message says
        what is wrong but not with which video: the caller knows its name.
    """
    with contextlib.ExitStack() as stack:
        with reading():
            frames = _open(encoded, stack)
        limits.check_frames(len(frames))
        yield frames


def check(encoded: Encoded) -> None:
    """Decodes all frames of a video.

    Raises:
      UserError: One of them is damaged or of another size, or they are too narrow for a clip.
    """
    size = None
    with opened(encoded) as frames:
        for image in frames.images(range(len(frames))):
            limits.check_aspect(*image.size)
            check_size(image, size)
            size = image.size


def check_size(image: Image.Image, size: tuple[int, int] | None) -> None:
    """Raises `UserError` if a frame has another size, width and height, than one before it."""
    if size is not None and image.size != size:
        sizes = f"{size[0]}x{size[1]} and of {image.width}x{image.height}"
        raise UserError(f"has frames of {sizes} pixels")


def _open(encoded: Encoded, stack: contextlib.ExitStack) -> Frames:
    """Opens a video; `stack` closes its file."""
    if isinstance(encoded, Segment):
        return SegmentFrames(_open(encoded.path, stack), encoded.frames)
    if isinstance(encoded, tuple):
        return Stills(encoded)
    if isinstance(encoded, bytes):
        return _of_file(encoded, stack)
    kind = encoded.suffix.lower()
    if encoded.is_dir():
        # macOS puts a hidden ._NAME beside each NAME on disks of others.
        names = (file for file in encoded.iterdir() if not file.name.startswith("."))
        stills = sorted(file for file in names if file.suffix.lower() in STILLS)
        if not stills:
            raise UserError(f"is a directory without images ({', '.join(STILLS)})")
        return Stills(stills)
    if not encoded.is_file():
        if encoded.exists():
            raise UserError("is a pipe or a device; save it as a file first")
        raise UserError("no such file")
    if kind == ".npy":
        return _of_array(encoded)
    if kind in IMAGES:
        return Animation(encoded)
    if kind in VIDEO_EXTENSIONS:
        return _of_file(encoded, stack)
    known = ", ".join((".npy", *IMAGES, *VIDEO_EXTENSIONS))
    raise UserError(f"unknown kind of file; the known ones are {known}")


def _of_file(encoded: bytes | Path, stack: contextlib.ExitStack) -> Frames:
    # Imports FFmpeg, which machines that read no video files need not have.
    from rstg_jax.data.video import seek

    return seek.VideoFrames(encoded, stack.enter_context(seek.open_container(encoded)))


# NumPy reads the header of a file with `ast`, which in CPython 3.11 is not safe among threads: now
# and then "AST constructor recursion depth mismatch" (gh-106905) would call a sound clip damaged.
_one_header = threading.Lock()


def _of_array(path: Path) -> ArrayFrames:
    with reading("cannot be read as an npy video"), _one_header:
        # Mapped, so that a header which claims more than the file holds is refused at once.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.dtype != np.uint8 or not (array.ndim == 3 or (array.ndim, array.shape[-1]) == (4, 3)):
        raise UserError(
            f"holds {array.dtype} {list(array.shape)}; a video is uint8 [t h w], [t h w 1] or "
            "[t h w 3]"
        )
    height, width = array.shape[1:3]
    limits.check_pixels(width, height)
    if not width * height:
        raise UserError("has frames without pixels")
    return ArrayFrames(array)


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image; one of 16-bit grey, which Pillow would make white, with 8 bits."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).clip(0, 65535) // 256).astype(np.uint8))
