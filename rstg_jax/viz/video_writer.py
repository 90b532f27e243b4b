"""Writes videos: animated images (GIF, WebP) and encoded videos (MP4, WebM)."""

import io
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rstg_jax import files
from rstg_jax.errors import UserError
from rstg_jax.viz import panels

IMAGE_FORMATS = {".gif": "GIF", ".webp": "WEBP"}
VIDEO_CODECS = {".mp4": "libx264", ".webm": "libvpx-vp9"}
FPS = 5  # of animated images
LAST_FRAME_MS = 900


def save(
    video: np.ndarray,
    path: str | Path,
    *,
    boxes: np.ndarray | None = None,
    size: int = 256,
    fps: int = FPS,
) -> None:
    """Enlarges a video and writes it in the format of the file's suffix.

    Args:
      video: uint8 [t h w c]: grey, RGB, or with other numbers of channels a map whose channels get
        a hue each.
      path: Ends in .gif, .webp, .mp4 or .webm. Animated images repeat for ever.
      boxes: [t m 4], y0, x0, y1, x1 in fractions of the frame, or None.
      size: Height in pixels; an odd one is cropped by a pixel in .mp4 and .webm files.
      fps: Frames per second.

    Raises:
      UserError: The video or the suffix is not supported, or the file cannot be written.
    """
    path = Path(path)
    check_suffix(path)
    if video.ndim != 4 or video.dtype != np.uint8 or not video.shape[-1]:
        raise UserError(f"a video must be uint8 [t h w c], not {video.dtype} {list(video.shape)}")
    if not len(video):
        raise UserError("a video without frames cannot be written")
    if size < 2 or fps < 1:
        raise UserError(f"size={size}, fps={fps}: videos have 2 or more rows and 1 or more fps")
    frames = [panels.draw_frame(frame, size) for frame in video]
    if boxes is not None:
        frames = [panels.draw_boxes(f, b) for f, b in zip(frames, boxes, strict=True)]
    write(frames, path, fps)


def check_suffix(path: Path) -> None:
    """Raises `UserError` if no video can be written to a file of this suffix."""
    kind = path.suffix.lower()
    if kind not in IMAGE_FORMATS and kind not in VIDEO_CODECS:
        known = ", ".join([*IMAGE_FORMATS, *VIDEO_CODECS])
        raise UserError(f"{path}: cannot write {kind!r} files; use one of {known}")


def write(frames: Iterable[Image.Image], path: Path, fps: int | Fraction) -> None:
    """Writes at least one RGB image of one size; encodes .mp4 and .webm files frame by frame.

    Raises:
      UserError: The file cannot be written. No part of it is left then.
    """
    kind = path.suffix.lower()
    try:
        with files.replacing(path) as part:
            if kind in IMAGE_FORMATS:
                part.write_bytes(encode_images(list(frames), IMAGE_FORMATS[kind], fps))
            else:
                encode_video(frames, part, fps, VIDEO_CODECS[kind], format=kind[1:])
    except OSError as e:
        raise UserError(f"{path}: {e.strerror or e}") from e


def encode_images(
    frames: Sequence[Image.Image], kind: str = "WEBP", fps: int | Fraction = FPS
) -> bytes:
    """Encodes an endless animation as WebP or GIF; the last frame stays longer.

    A GIF has at most 50 frames a second: browsers show a faster one with 10.
    """
    buffer = io.BytesIO()
    unit, least = (10, 20) if kind == "GIF" else (1, 1)  # of durations, ms
    times = [unit * round(1000 * number / (unit * fps)) for number in range(len(frames))]
    durations = [max(end - start, least) for start, end in itertools.pairwise(times)]
    durations.append(LAST_FRAME_MS)
    options = {"quality": 80, "method": 4, "minimize_size": True} if kind == "WEBP" else {}
    first, *others = frames
    timing: dict[str, Any] = {"duration": durations, "loop": 0}
    first.save(buffer, kind, save_all=True, append_images=others, **timing, **options)
    return buffer.getvalue()


def encode_video(
    frames: Iterable[Image.Image],
    path: Path,
    fps: int | Fraction,
    codec: str,
    *,
    codec_options: Mapping[str, str] | None = None,
    threads: int = 0,
    **container: Any,
) -> None:
    """Encodes RGB images of one size; holds only one of them in memory.

    Args:
      frames: At least one.
      path: File to write.
      fps: Frames per second.
      codec: FFmpeg's name of the encoder.
      codec_options: Of the encoder.
      threads: Of the encoder; 0 lets it choose.
      **container: Further arguments of `av.open`.
    """
    import av

    images: Iterator[Image.Image] = iter(frames)
    first = next(images)
    with av.open(str(path), "w", **container) as output:
        # VP9 takes no numbers above 10**9, such as the mean rate of a long film may have.
        rate = Fraction(fps).limit_denominator(10**6)
        stream: Any = output.add_stream(codec, rate=rate, options=dict(codec_options or {}))
        # yuv420p, which every player can show, stores chroma at half the size: it must be even.
        stream.width, stream.height = (max(2, length // 2 * 2) for length in first.size)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = threads
        for image in itertools.chain([first], images):
            cropped = image.crop((0, 0, stream.width, stream.height))
            output.mux(stream.encode(av.VideoFrame.from_image(cropped)))
        output.mux(stream.encode())
