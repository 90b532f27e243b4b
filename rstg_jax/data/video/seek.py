"""Decodes single frames of a video file, and as few others as its container allows.

Frame i is the i-th that decoding the whole file gives. Where the times of the packets can be
trusted, only the groups of pictures (from one keyframe to the next) that hold wanted frames are
decoded, of these no frame that nothing needs and none after the last wanted one. Elsewhere frames
are counted by decoding. Only wanted frames are converted to RGB. No container has to seek: all
packets are read, which costs next to nothing.
"""

import contextlib
import fractions
import io
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.frame import PictureType
from PIL import Image

from rstg_jax import limits
from rstg_jax.data.video.damage import reading
from rstg_jax.errors import UserError, reason

# Codecs of which one packet is one shown frame, so that frames are counted without decoding.
# (VP8 has packets that are never shown.)
_COUNTABLE = ("av1", "libdav1d", "h264", "hevc", "mjpeg", "vp9")
# Streams that start and end anywhere, and whose packets may be single fields of a frame.
_CUT_ANYWHERE = ("mpeg", "mpegts")
_KEEP_PACKETS = 16 << 20  # bytes of one file that are held in memory rather than read twice
_MAX_FPS = 120  # a higher rate is a default that the container made up
# Matrices between YUV and RGB that FFmpeg's converter knows; others are shown as if not specified.
_COLORSPACES, _UNSPECIFIED = (0, 1, 2, 4, 5, 6, 7, 9), 2
_MAX_ASPECT = 8  # of one pixel; a larger one is a mistake of the file


class VideoFrames:
    """An opened video file; satisfies `decode.Frames`.

    Attributes:
      fps: Frames per second, or None if the file does not know them.
      decoded: Frames that have been decoded so far, wanted or not.

    Args:
      source: The file.
      container: The same, opened by `open_container`.

    Raises:
      UserError: It has no video, or is damaged.
    """

    def __init__(self, source: bytes | Path, container: Any):
        self._source = source
        self._stream = _video_stream(container)
        self.decoded = 0
        context = self._stream.codec_context
        self._size = context.width, context.height
        limits.check_pixels(*self._size)
        aspect = self._stream.sample_aspect_ratio or 1
        self._aspect = aspect if 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT else 1
        rate = self._stream.average_rate
        self.fps = fractions.Fraction(rate) if rate and rate <= _MAX_FPS else None
        self._packets: list[Any] | None = []
        self._index: _Index | None = None
        if context.name in _COUNTABLE and container.format.name not in _CUT_ANYWHERE:
            self._index = self._indexed(container)
        if self._index is None:
            self._packets = None
        self._length = (
            sum(1 for _ in self._all()) if self._index is None else len(self._index.times)
        )

    def __len__(self) -> int:
        return self._length

    def images(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        count = 0
        with reading():
            if self._index is not None:
                for frame in self._by_time(self._index, indices):
                    yield self._upright(frame)
                    count += 1
            # The packets marked as keyframes are no whole pictures (an intra refresh), or damaged.
            if count < len(indices):
                for frame in self._by_number(indices[count:]):
                    yield self._upright(frame)
                    count += 1
        if count < len(indices):
            raise UserError(f"frame {indices[count]} of {len(self)} is damaged or missing")

    def _indexed(self, container: Any) -> "_Index | None":
        """Reads all packets; returns None if their times cannot be trusted."""
        table = []
        held = 0
        for packet in container.demux(self._stream):
            if packet.size:
                if packet.is_corrupt:
                    return None
                table.append(_Packet(packet.pts, packet.is_keyframe, not packet.is_discard))
                held += packet.size
            if held > _KEEP_PACKETS:
                self._packets = None
            if self._packets is not None:
                self._packets.append(packet)
        return _index(table, self._stream.codec_context.has_b_frames)

    def _by_time(self, index: "_Index", indices: Sequence[int]) -> Iterator[Any]:
        """Decodes the groups of pictures that hold a wanted frame; stops if one is not found."""
        wanted = [index.times[i] for i in indices]
        kept, done, feeding = set(wanted), 0, False
        context = self._stream.codec_context
        start, end = math.inf, -math.inf
        for packet in self._demux():
            if packet.size and packet.is_keyframe:
                end = index.follows.get(packet.pts, math.inf)
                if wanted[done] < end and not feeding:
                    context.flush_buffers()
                    feeding, start = True, packet.pts
            feeding = feeding and wanted[done] < end
            if not feeding:
                continue
            # No other frame is decoded with the help of a non-reference frame.
            context.skip_frame = "DEFAULT" if packet.pts in kept else "NONREF"
            try:
                frames = context.decode(packet if packet.size else None)
            except av.FFmpegError:
                return
            for frame in frames:
                self.decoded += 1
                if frame.pts == start and frame.pict_type == PictureType.I:
                    start = math.inf
                if frame.pts is None or frame.pts > wanted[done] or frame.pts >= start:
                    return
                if frame.pts == wanted[done]:
                    yield frame
                    done += 1
                    if done == len(wanted):
                        return

    def _by_number(self, indices: Sequence[int]) -> Iterator[Any]:
        """Decodes from the start and counts."""
        kept = set(indices)
        for number, frame in enumerate(itertools.islice(self._all(), indices[-1] + 1)):
            if number in kept:
                yield frame

    def _all(self) -> Iterator[Any]:
        """All frames. A part frame at either end, where the file was cut, is left out.

        Raises:
          UserError: One between others is damaged.
        """
        shown, damage = 0, None
        # A decoder remembers what it has seen, so only a new one gives the same frames again.
        with open_container(self._source) as container:
            for packet in container.demux(_video_stream(container)):
                try:
                    frames = packet.decode()
                except av.FFmpegError as error:
                    damage = error if shown else None
                    continue
                if frames and damage and packet.size:
                    raise UserError(f"is damaged after frame {shown - 1}: {reason(damage)}")
                for frame in frames:
                    self.decoded += 1
                    shown += 1
                    yield frame

    def _demux(self) -> Iterator[Any]:
        if self._packets is not None:
            yield from self._packets
            return
        with open_container(self._source) as container:
            yield from container.demux(_video_stream(container))

    def _upright(self, frame: Any) -> Image.Image:
        """A decoded frame in RGB, as a player shows it: of one size, turned, with square pixels."""
        width, height = self._size
        if frame.colorspace not in _COLORSPACES:
            frame.colorspace = _UNSPECIFIED
        # PyAV's own `to_image` makes the same bytes in twice the time.
        array = frame.to_ndarray(format="rgb24", width=width or None, height=height or None)
        array, turned = _orient(array, frame)
        image = Image.fromarray(np.ascontiguousarray(array))
        aspect = 1 / self._aspect if turned else self._aspect
        if aspect == 1:
            return image
        size = round(image.width * max(aspect, 1)), round(image.height * max(1 / aspect, 1))
        return image.resize(size, Image.Resampling.BICUBIC)


class _Packet(NamedTuple):
    """A packet as its container describes it."""

    time: int | None
    key: bool
    shown: bool


class _Index(NamedTuple):
    """Times of the shown frames, rising; and where each group of pictures ends."""

    times: list[int]
    follows: dict[int, int]  # time of a keyframe -> time of the next


def _index(table: Sequence[_Packet], reorders: bool) -> _Index | None:
    """Index of packets in the order of decoding, None if their times cannot be trusted."""
    times = [packet.time for packet in table if packet.time is not None]
    shown = [packet.time for packet in table if packet.shown and packet.time is not None]
    keys = sorted(packet.time for packet in table if packet.key and packet.time is not None)
    rising = sorted(times)
    if (
        len(times) < len(table)
        or len(set(times)) < len(times)
        or not table
        or not table[0].key
        # Frames that need another one before the first keyframe: the file was cut there.
        or times[0] != rising[0]
        # AVI has the times of decoding only.
        or (reorders and times == rising)
    ):
        return None
    return _Index(sorted(shown), dict(itertools.pairwise(keys)))


@contextlib.contextmanager
def open_container(source: bytes | Path) -> Iterator[Any]:
    """Opens a file with PyAV."""
    # Without "file:", a colon in a name is taken for the end of a protocol.
    file = io.BytesIO(source) if isinstance(source, bytes) else f"file:{source}"
    # Titles are in any encoding.
    with av.open(file, "r", metadata_errors="replace") as container:
        yield container


def _video_stream(container: Any) -> Any:
    """The stream that a player shows."""
    stream = container.streams.best("video")
    if stream is None:
        raise UserError("has no video stream")
    return bounded(stream)


def bounded(stream: Any) -> Any:
    """A stream whose decoder takes little memory, and whose frames may become no larger.

    Raises:
      UserError: It cannot be decoded.
    """
    if stream.codec_context is None:
        raise UserError("its codec is unknown")
    # Several clips are decoded at once; threads inside one decoder would only add to them.
    stream.codec_context.thread_count = 1
    # The stream itself may say another size than its container.
    stream.codec_context.options = {"max_pixels": str(limits.PIXELS)}
    return stream


def _orient(array: np.ndarray, frame: Any) -> tuple[np.ndarray, bool]:
    """Turns and mirrors a frame as its file says (phones record that way).

    Returns:
      The array, and whether its rows are columns of the frame.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return array, False
    # [x y] of a pixel is shown at [x y] @ [[a, b], [c, d]], apart from a shift.
    (a, b), (c, d) = np.frombuffer(matrix, np.int32).reshape(3, 3)[:2, :2].tolist()
    turned = abs(b) + abs(c) > abs(a) + abs(d)
    if turned:
        array = array.swapaxes(0, 1)
    flip_x, flip_y = (c < 0, b < 0) if turned else (a < 0, d < 0)
    return array[:: -1 if flip_y else 1, :: -1 if flip_x else 1], turned
