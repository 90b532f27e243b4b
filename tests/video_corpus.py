"""Small videos of every kind, and what decoding all of them gives.

A reader of single frames is to be compared with `plain`: the whole file, decoded from the start.
"""

import io
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np

from tests import clip_files

COUNT = 24  # frames of a video
X264, X265 = "x264-params", "x265-params"
OPEN_265 = {X265: "log-level=none:keyint=8:open-gop=1:bframes=2:b-adapt=0"}
OPEN_264 = {X264: "open-gop=1:keyint=8:bframes=2:b-adapt=0"}
FAST = {"deadline": "realtime", "cpu-used": "8"}
HIDDEN = {"lag-in-frames": "16", "auto-alt-ref": "1", "cpu-used": "8", "g": "10"}
B = {"bf": "2", "g": "8"}


class Kind(NamedTuple):
    """How a video is encoded."""

    codec: str
    container: str
    options: dict[str, str] = {}
    pixels: str = "yuv420p"
    muxer: dict[str, str] = {}


KINDS = {
    "h264, mp4": Kind("libx264", "mp4", B),
    "h264, mov": Kind("libx264", "mov", B),
    "h264, fragmented mp4": Kind(
        "libx264", "mp4", B, muxer={"movflags": "frag_keyframe+empty_moov"}
    ),
    "h264, mkv": Kind("libx264", "matroska", B),
    "h264, flv": Kind("libx264", "flv", B),
    "h264, avi": Kind("libx264", "avi", B),
    "h264, avi, in order": Kind("libx264", "avi", {"bf": "0", "g": "8"}),
    "h264, asf": Kind("libx264", "asf", B),
    "h264, ts": Kind("libx264", "mpegts", B),
    "h264, m2ts": Kind("libx264", "mpegts", B, muxer={"mpegts_m2ts_mode": "1"}),
    "h264, no container": Kind("libx264", "h264", B),
    "h264, open groups": Kind("libx264", "matroska", OPEN_264),
    "h264, intra refresh": Kind("libx264", "mp4", {X264: "intra-refresh=1:keyint=8:bframes=2"}),
    "h264, interlaced": Kind("libx264", "matroska", {X264: "interlaced=1:keyint=8:bframes=2"}),
    "h264, one keyframe": Kind("libx264", "mp4", {"g": "999"}),
    "h264, keyframes only": Kind("libx264", "mp4", {"g": "1"}),
    "h264, 4:4:4": Kind("libx264", "matroska", B, "yuv444p"),
    "h264, 10 bits": Kind("libx264", "mp4", B, "yuv420p10le"),
    "h264, grey": Kind("libx264", "mp4", B, "gray"),
    "h264, full range": Kind("libx264", "mp4", B, "yuvj420p"),
    "h264, unusual matrix": Kind("libx264", "mp4", {X264: "colormatrix=YCgCo"}),
    "h265, mp4": Kind("libx265", "mp4", OPEN_265),
    "h265, mkv": Kind("libx265", "matroska", OPEN_265),
    "h265, ts": Kind("libx265", "mpegts", OPEN_265),
    "h265, 10 bits": Kind("libx265", "mp4", OPEN_265, "yuv420p10le"),
    "av1, mp4": Kind("libsvtav1", "mp4", {"preset": "12", "g": "8"}),
    "av1, webm": Kind("libsvtav1", "webm", {"preset": "12", "g": "8"}),
    "vp9, webm": Kind("libvpx-vp9", "webm", FAST | {"g": "8"}),
    "vp9, hidden frames": Kind("libvpx-vp9", "webm", HIDDEN),
    "vp9, as browsers record": Kind("libvpx-vp9", "webm", FAST | {"g": "8"}, muxer={"live": "1"}),
    "vp9, transparent": Kind("libvpx-vp9", "webm", FAST, "yuva420p"),
    "vp9, mp4": Kind("libvpx-vp9", "mp4", FAST | {"g": "8"}),
    "vp8, hidden packets": Kind("libvpx", "webm", HIDDEN),
    "mpeg4, avi": Kind("mpeg4", "avi", B),
    "mpeg4, mp4": Kind("mpeg4", "mp4", B),
    "mpeg4, 3gp": Kind("mpeg4", "3gp"),
    "mpeg2, mpg": Kind("mpeg2video", "mpeg", B),
    "mpeg2, vob": Kind("mpeg2video", "vob", B),
    "mpeg2, ts": Kind("mpeg2video", "mpegts", B),
    "wmv2, wmv": Kind("wmv2", "asf"),
    "flv1, flv": Kind("flv", "flv"),
    "jpeg, avi": Kind("mjpeg", "avi", pixels="yuvj420p"),
    "jpeg, mov": Kind("mjpeg", "mov", pixels="yuvj422p"),
    "prores, mov": Kind("prores", "mov", pixels="yuv422p10le"),
    "raw, avi": Kind("rawvideo", "avi", pixels="bgr24"),
    "ffv1, mkv": Kind("ffv1", "matroska"),
    "quicktime animation": Kind("qtrle", "mov", pixels="rgb24"),
}

# The matrix that a file gives, and what it does to a frame [h w c].
ORIENTATIONS: dict[str, tuple[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]]] = {
    "as it is": ((1, 0, 0, 1), lambda x: x),
    "mirrored": ((-1, 0, 0, 1), lambda x: x[:, ::-1]),
    "upside down": ((-1, 0, 0, -1), lambda x: x[::-1, ::-1]),
    "upside down, mirrored": ((1, 0, 0, -1), lambda x: x[::-1]),
    "turned left": ((0, -1, 1, 0), lambda x: np.rot90(x)),
    "turned left, mirrored": ((0, -1, -1, 0), lambda x: np.rot90(x)[:, ::-1]),
    "turned right": ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),
    "turned right, mirrored": ((0, 1, 1, 0), lambda x: np.rot90(x, -1)[:, ::-1]),
}


def make(
    kind: Kind,
    count: int = COUNT,
    *,
    size: tuple[int, int] = (64, 48),
    aspect: Fraction | None = None,
    times: list[int] | None = None,
    title: bytes = b"",
) -> bytes:
    """Encodes a video.

    Args:
      kind: How.
      count: Number of frames.
      size: Width and height.
      aspect: Width of a pixel by its height.
      times: Of the frames, in 1/12 s; one after the other if None.
      title: Of the file, of as many bytes as there are in "TITLE", in any encoding.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind.container, options=kind.muxer) as out:
        if title:
            out.metadata["title"] = "TITLE"
        stream = out.add_stream(kind.codec, rate=12)
        stream.width, stream.height = size
        stream.pix_fmt = kind.pixels
        stream.options = kind.options
        if aspect is not None:
            stream.sample_aspect_ratio = aspect
        for number, image in enumerate(clip_files.pictures(count, *size)):
            frame = av.VideoFrame.from_image(image)
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 12)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return buffer.getvalue().replace(b"TITLE", title) if title else buffer.getvalue()


def remuxed(
    content: bytes, container: str, first: int = 0, last: int | None = None, shift: int = 0
) -> bytes:
    """The packets `first:last` of a video, `shift` ticks earlier, as editors cut them out."""
    buffer = io.BytesIO()
    options = {"avoid_negative_ts": "disabled"} if shift else {}
    with (
        av.open(io.BytesIO(content)) as file,
        av.open(buffer, "w", format=container, options=options) as out,
    ):
        stream = out.add_stream_from_template(file.streams.video[0])
        packets = [packet for packet in file.demux(video=0) if packet.size]
        for packet in packets[first:last]:
            packet.stream = stream
            if shift:
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            out.mux(packet)
    return buffer.getvalue()


def places(content: bytes) -> list[int]:
    """Where each packet starts in the file, in bytes."""
    with av.open(io.BytesIO(content)) as file:
        return [packet.pos for packet in file.demux(video=0) if packet.size]


def oriented(content: bytes, orientation: str) -> bytes:
    """An mp4 file with another display matrix."""
    a, b, c, d = ORIENTATIONS[orientation][0]
    one, w = 1 << 16, 1 << 30
    plain_matrix = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, w)
    track = content.index(b"tkhd")
    place = content.index(plain_matrix, track)
    matrix = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, w)
    return content[:place] + matrix + content[place + len(matrix) :]


def stored_last(content: bytes) -> int:
    """Number, in the order in which frames are shown, of the one that is stored last."""
    with av.open(io.BytesIO(content), metadata_errors="replace") as file:
        times = [packet.pts for packet in file.demux(video=0) if packet.size]
    return sorted(times).index(times[-1])


def plain(content: bytes) -> list[np.ndarray]:
    """All frames, uint8 [h w c], of a whole file or one that is cut off at either end."""
    frames = []
    with av.open(io.BytesIO(content), metadata_errors="replace") as file:
        for packet in file.demux(video=0):
            try:
                decoded = packet.decode()
            except av.FFmpegError:
                continue
            for frame in decoded:
                if frame.colorspace > 7:
                    frame.colorspace = 2  # PyAV refuses what it cannot convert
                frames.append(frame.to_ndarray(format="rgb24"))
    return frames
