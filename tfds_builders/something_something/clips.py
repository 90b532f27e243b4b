"""Reads single clips of Something-Something and checks that they are complete.

Detected are: a webm file that is shorter than its header states, to the byte; one without a stated
size whose frames end clearly before the stated duration; data that cannot be decoded. A file that
was cut off during encoding, before its header was complete, looks like a shorter clip. In a folder
of frames, missing numbers and truncated or undecodable images are detected, but not frames that are
missing at the end.
"""

import dataclasses
import io
import pathlib
from typing import Any

import av
from PIL import Image

from rstg_jax import limits
from rstg_jax.data.video import seek
from rstg_jax.data.video.damage import reading
from rstg_jax.errors import UserError, reason

FPS = 12.0  # frame rate of every published clip
# Encoders round durations differently; a truncated clip lacks more than both of these.
_LATE_FRAMES, _LATE_SHARE = 3, 0.1
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


class BrokenClipError(Exception):
    """Raised for a clip that cannot be used; has the kind of fault and its details."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclasses.dataclass(frozen=True)
class Clip:
    """A complete clip.

    Attributes:
      frames: JPEG files; empty if the clip is stored as a video.
      num_frames: Number of frames.
      fps: Frames per second.
      video: The video file; empty if the clip is stored as frames.
    """

    frames: list[bytes]
    num_frames: int
    fps: float
    video: bytes = b""


def state(path: pathlib.Path) -> Any:
    """Returns a value that changes with the file or folder; None if it does not exist."""
    if not path.exists():
        return None
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [file.stat() for file in files]
    return [len(files), sum(s.st_size for s in stats), max([s.st_mtime_ns for s in stats] or [0])]


def read_folder(folder: pathlib.Path) -> Clip:
    """Reads a clip of V1, with the bytes of its files.

    Raises:
      BrokenClipError: If it is not whole.
    """
    if not folder.is_dir():
        raise BrokenClipError("missing", "no such folder")
    numbers = sorted(int(p.stem) for p in folder.glob("[0-9]" * 5 + ".jpg"))
    if not numbers:
        raise BrokenClipError("no frames", "the folder holds no 00001.jpg")
    if numbers != list(range(1, len(numbers) + 1)):
        lost = min(set(range(1, numbers[-1] + 1)) - set(numbers))
        raise BrokenClipError("frames missing", f"{lost:05d}.jpg is not there")
    frames, sizes = [], set()
    for number in numbers:
        file = folder / f"{number:05d}.jpg"
        content = file.read_bytes()
        try:
            with reading(), Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
                limits.check_pixels(*image.size)
                image.load()
                sizes.add(image.size)
        except UserError as e:
            cut = "truncated" in str(e) or not content
            kind = "truncated" if cut else "unreadable"
            raise BrokenClipError(kind, f"{file.name} cannot be decoded") from e
        frames.append(content)
    if len(sizes) > 1:
        raise BrokenClipError("unreadable", f"frames of different sizes {sorted(sizes)}")
    return Clip(frames, len(frames), FPS)


def read_video(path: pathlib.Path, *, as_video: bool, short_side: int, quality: int) -> Clip:
    """A clip of V2, decoded once.

    Args:
      path: The webm file.
      as_video: Keep its bytes and not the frames.
      short_side: Frames whose shorter side is longer than this are reduced to it; 0 for never.
      quality: Of the JPEGs, 1..95 as Pillow counts.

    Raises:
      BrokenClipError: If it is not whole.
    """
    if not path.is_file():
        raise BrokenClipError("missing", "no such file")
    content = path.read_bytes()
    end = segment_end(content)
    if not content or (end is not None and end > len(content)):
        whole = f" of {end:,}" if end else ""
        raise BrokenClipError("truncated", f"{len(content):,} bytes{whole}")
    frames, count = [], 0
    try:
        with seek.open_container(content) as container:
            if not container.streams.video:
                raise BrokenClipError("no frames", "no video in it")
            stream = seek.bounded(container.streams.video[0])
            fps = float(stream.average_rate or stream.guessed_rate or FPS)
            seconds = container.duration / av.time_base if container.duration else 0.0
            last = 0.0
            for frame in container.decode(stream):
                count += 1
                last = (frame.time if frame.time is not None else last + 1 / fps) + 1 / fps
                if not as_video:
                    frames.append(_jpeg(frame, short_side, quality))
            others = len(container.streams) > 1  # may go on for longer
    except av.EOFError as e:
        raise BrokenClipError("no frames", "the file ends where they should begin") from e
    except BrokenClipError:
        raise
    except Exception as e:  # FFmpeg raises nearly anything, see `errors.translated`
        raise BrokenClipError("unreadable", f"after {count} frames: {reason(e)}") from e
    if not count:
        raise BrokenClipError("no frames", "nothing could be decoded")
    if seconds - last > max(_LATE_FRAMES / fps, _LATE_SHARE * seconds) and not others:
        detail = f"{count} frames end at {last:.2f} s of {seconds:.2f} s"
        raise BrokenClipError("truncated", detail)
    return Clip(frames, count, fps, content if as_video else b"")


def _jpeg(frame: av.VideoFrame, short_side: int, quality: int) -> bytes:
    width, height = frame.width, frame.height
    if 0 < short_side < min(width, height):
        scale = short_side / min(width, height)
        width, height = round(width * scale), round(height * scale)
    image = frame.to_image(width=width, height=height, interpolation="BICUBIC")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def segment_end(content: bytes) -> int | None:
    """Length that the header of a Matroska or webm file gives it; None if it does not say.

    The file is an EBML header and one segment, each an id, a length and a body (RFC 8794).
    """
    if not content.startswith(_EBML):
        return None
    header = _length(content, len(_EBML))
    if header is None or header[0] is None:
        return None
    start = header[1] + header[0]
    if content[start : start + len(_SEGMENT)] != _SEGMENT:
        return None
    segment = _length(content, start + len(_SEGMENT))
    return None if segment is None or segment[0] is None else segment[1] + segment[0]


def _length(content: bytes, place: int) -> tuple[int | None, int] | None:
    """The length at a place, None if it is the one that means unknown, and where it ends."""
    if place >= len(content) or not content[place]:
        return None
    count = 9 - content[place].bit_length()  # leading zeros tell the number of bytes
    bits = 7 * count
    value = int.from_bytes(content[place : place + count], "big") & ((1 << bits) - 1)
    return (None if value == (1 << bits) - 1 else value), place + count
