"""Saves a video as an animated GIF or WebP or as an MP4 or WebM film, enlarged.

    python -m rstg_jax.animate --out=x.gif [--index=0] [--split=test] [--boxes] [--num_digits=5] ...

does so with an example of SyncMNIST, and can draw boxes around the pair that moves together.
"""

import argparse
import fractions
import itertools
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
from PIL import Image

from rstg_jax import cli
from rstg_jax.data import SyncMNISTConfig, open_source, pair_boxes
from rstg_jax.data.sync_mnist import generator
from rstg_jax.errors import UserError
from rstg_jax.viz import panels

IMAGE_FORMATS = {".gif": "GIF", ".webp": "WEBP"}
VIDEO_CODECS = {".mp4": "libx264", ".webm": "libvpx-vp9"}


def save(
    video: np.ndarray,
    path: str | pathlib.Path,
    *,
    boxes: np.ndarray | None = None,
    size: int = 256,
    fps: int = 5,
) -> None:
    """Writes a video in the format that the file's name says.

    Args:
      video: uint8 [t h w c] with 1 or 3 channels.
      path: Ends in .gif, .webp, .mp4 or .webm. Images are shown for ever at the pace of
        `pictures`; films once, at `fps`.
      boxes: [t m 4], y0, x0, y1, x1 in fractions of the frame, or None.
      size: Height of the picture in pixels; even for films.
      fps: Frames per second of a film.

    Raises:
      UserError: If the video or the file's name is of no known kind or cannot be written.
    """
    path = pathlib.Path(path)
    check_kind(path)
    if video.ndim != 4 or video.dtype != np.uint8 or video.shape[-1] not in (1, 3):
        raise UserError(
            f"a video must be uint8 [t h w 1] or [t h w 3], not {video.dtype} {list(video.shape)}"
        )
    if not len(video):
        raise UserError("a video without frames cannot be animated")
    frames = [panels.draw_frame(frame, size) for frame in video]
    if boxes is not None:
        frames = [panels.draw_boxes(f, b) for f, b in zip(frames, boxes, strict=True)]
    write(frames, path, fps)


def check_kind(path: pathlib.Path) -> None:
    """Raises `UserError` if a file's name is of no known kind."""
    kind = path.suffix.lower()
    if kind not in IMAGE_FORMATS and kind not in VIDEO_CODECS:
        known = ", ".join([*IMAGE_FORMATS, *VIDEO_CODECS])
        raise UserError(f"{path}: cannot animate to {kind!r} files; give one of {known}")


def write(
    frames: Iterable[Image.Image],
    path: pathlib.Path,
    fps: int | fractions.Fraction,
    frame_ms: int | None = None,
) -> None:
    """Writes pictures of one size, at least one; a film holds only one of them in memory.

    Args:
      frames: RGB.
      path: see `save`.
      fps: pace of a film.
      frame_ms: pace of images, in milliseconds; that of `pictures` if None.

    Raises:
      UserError: If the file cannot be written. Nothing is left of it then.
    """
    kind = path.suffix.lower()
    try:
        if kind in IMAGE_FORMATS:
            path.write_bytes(panels.encode(list(frames), IMAGE_FORMATS[kind], frame_ms))
        else:
            part = path.with_name(f".part-{path.name}")
            try:
                _write_film(iter(frames), part, VIDEO_CODECS[kind], fps)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
    except OSError as e:
        raise UserError(f"{path}: {e.strerror or e}") from e


def _write_film(
    frames: Iterator[Image.Image], path: pathlib.Path, codec: str, fps: int | fractions.Fraction
) -> None:
    import av

    first = next(frames)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=fps)
        # Chroma of yuv420p, which every player can show, has half the size: it must be even.
        stream.width, stream.height = (length // 2 * 2 for length in first.size)
        stream.pix_fmt = "yuv420p"
        for image in itertools.chain([first], frames):
            cropped = image.crop((0, 0, stream.width, stream.height))
            container.mux(stream.encode(av.VideoFrame.from_image(cropped)))
        container.mux(stream.encode())


def _command(
    *,
    out: pathlib.Path,
    index: int,
    split: str,
    boxes: bool,
    size: int,
    fps: int,
    source: Literal["online", "tfds"],
    **fields: Any,
) -> None:
    """Saves one example; `fields` are those of `SyncMNISTConfig`."""
    config = SyncMNISTConfig(train_source=source, test_source=source, **fields)
    videos = open_source(config, split)
    if not 0 <= index < len(videos):
        raise UserError(f"--index={index} is not an example of {videos.name}")
    batch = videos.batch(np.array([index]))
    pair = pair_boxes(batch, 0, videos.label_names) if boxes else None
    save(batch["video"][0], out, boxes=pair, size=size, fps=fps)
    label = videos.label_names[batch["label"][0]]
    print(f"{out}: example {index} of the {split} split, label {label}")


def main(args: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("--out", type=pathlib.Path, required=True, help=".gif, .webp, .mp4, .webm")
    parser.add_argument("--index", type=int, default=0, help="which example")
    parser.add_argument("--split", choices=generator.SPLITS, default="test")
    parser.add_argument("--boxes", action="store_true", help="around the synchronous pair")
    parser.add_argument("--size", type=int, default=256, help="height in pixels")
    parser.add_argument("--fps", type=int, default=5, help="of a film")
    default = SyncMNISTConfig(test_source="online")
    parser.add_argument("--source", choices=("online", "tfds"), default=default.test_source)
    for name in ("digits_from", "mnist_dir", "data_dir"):
        parser.add_argument(f"--{name}", default=getattr(default, name))
    for name in ("num_digits", "num_test", "num_train", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(default, name))
    cli.run_or_exit(lambda: _command(**vars(parser.parse_args(args))))


if __name__ == "__main__":
    main()
