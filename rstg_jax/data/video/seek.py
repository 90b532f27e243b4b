"""Decodes single frames of a video file, and as few others as its container allows.

Frame i is the i-th that a player shows. Only the groups of pictures (from one keyframe to the next)
that hold wanted frames are decoded, of these no frame that nothing needs and none after the last
wanted one, and only wanted frames are converted to RGB. No container has to seek: all packets are
read, which costs next to nothing.
"""

import fractions
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from rstg_jax.errors import UserError

# Codecs of which one packet is one shown frame, so that frames are counted without decoding.
# (VP8 has packets that are never shown.)
_COUNTABLE = ("av1", "libdav1d", "h264", "hevc", "mjpeg", "vp9")
_KEEP_PACKETS = 256 << 20  # bytes of one file that are held in memory rather than read twice
_MAX_FPS = 120  # a higher rate is a default that the container made up


class VideoFrames:
    """An opened video file; satisfies `decode.Frames`.

    Attributes:
      fps: Frames per second, or None if the file does not know them.
      decoded: Frames that have been decoded so far, wanted or not.
    """

    def __init__(self, source: bytes | Path, container: Any):
        self._source = source
        self._container = container
        self._stream = container.streams.video[0]
        # Several clips are decoded at once; threads inside one decoder would only add to them.
        self._stream.codec_context.thread_count = 1
        rate = self._stream.average_rate
        self.fps = fractions.Fraction(rate) if rate and rate <= _MAX_FPS else None
        self.decoded = 0
        self._packets: list[Any] | None = []
        held = 0
        table = []  # (time, keyframe, shown) of each packet, in the order of decoding
        for packet in container.demux(self._stream):
            if packet.size:
                table.append((packet.pts, packet.is_keyframe, not packet.is_discard))
                held += packet.size
            if held > _KEEP_PACKETS:
                self._packets = None
            if self._packets is not None:
                self._packets.append(packet)
        times = [time for time, _, shown in table if shown]
        self._countable = (
            self._stream.codec_context.name in _COUNTABLE
            and None not in times
            and len(set(times)) == len(times)
            and bool(table)
            and table[0][1]
        )
        self._times = sorted(times) if self._countable else []
        self._key_times = sorted(time for time, key, _ in table if key) if self._countable else []
        self._length = len(times) if self._countable else sum(1 for _ in self._decode_all())

    def __len__(self) -> int:
        return self._length

    def images(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        found = self._by_time(indices) if self._countable else self._by_number(indices)
        count = 0
        for frame in found:
            count += 1
            yield _upright(frame)
        if count < len(indices):
            raise UserError(f"frame {indices[count]} of {len(self)} is damaged or missing")

    def _by_time(self, indices: Sequence[int]) -> Iterator[Any]:
        """Decodes the groups of pictures that hold a wanted frame."""
        wanted = [self._times[index] for index in indices]
        kept, done, feeding = set(wanted), 0, False
        context = self._stream.codec_context
        context.flush_buffers()
        # The time at which each group is followed by another one.
        follows = dict(zip(self._key_times, self._key_times[1:], strict=False))
        end = -math.inf
        for packet in self._demux():
            if packet.size and packet.is_keyframe:
                end = follows.get(packet.pts, math.inf)
                if wanted[done] < end and not feeding:
                    context.flush_buffers()
                    feeding = True
            feeding = feeding and wanted[done] < end
            if not feeding:
                continue
            # No other frame is decoded with the help of a non-reference frame.
            context.skip_frame = "DEFAULT" if packet.pts in kept else "NONREF"
            for frame in context.decode(packet if packet.size else None):
                self.decoded += 1
                if frame.pts == wanted[done]:
                    yield frame
                    done += 1
                    if done == len(wanted):
                        return

    def _by_number(self, indices: Sequence[int]) -> Iterator[Any]:
        """Decodes from the start and counts."""
        wanted = iter(indices)
        following = next(wanted, None)
        for number, frame in enumerate(self._decode_all()):
            if number == following:
                yield frame
                following = next(wanted, None)
                if following is None:
                    return

    def _decode_all(self) -> Iterator[Any]:
        context = self._stream.codec_context
        context.flush_buffers()
        for packet in self._demux():
            for frame in context.decode(packet if packet.size else None):
                self.decoded += 1
                yield frame

    def _demux(self) -> Iterator[Any]:
        if self._packets is not None:
            yield from self._packets
            return
        with av.open(readable(self._source), "r") as container:
            yield from container.demux(video=0)


def readable(source: bytes | Path) -> io.BytesIO | str:
    """The source as PyAV takes it."""
    return io.BytesIO(source) if isinstance(source, bytes) else str(source)


def _upright(frame: Any) -> Image.Image:
    """A decoded frame in RGB, turned as the file says (phones record that way)."""
    # PyAV's own `to_image` makes the same bytes in twice the time.
    array = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
    return Image.fromarray(np.ascontiguousarray(array))
