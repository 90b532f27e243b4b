"""Parts of a long video, read in order without holding the whole of it."""

import contextlib
import fractions
from collections.abc import Callable, Iterator, Sequence

from PIL import Image

from rstg_jax.data.video import decode


@contextlib.contextmanager
def opened(encoded: decode.Encoded) -> Iterator["Parts"]:
    """Opens a video as `decode.opened` does, to be read in parts."""
    with contextlib.ExitStack() as stack:

        def read() -> decode.Frames:
            return stack.enter_context(decode.opened(encoded))

        yield Parts(read)


class Parts:
    """Reads the parts of a video, in the order of their starts.

    Where parts overlap, the video is opened again, as often as parts lie over each other: no frame
    is held for a later part.

    Attributes:
      fps: Frames per second, or None if that is not known.

    Args:
      read: Opens the video.
    """

    def __init__(self, read: Callable[[], decode.Frames]):
        frames = read()
        self.fps, self._length, self._read = frames.fps, len(frames), read
        self._readers = [_Reader(frames)]

    def __len__(self) -> int:
        """Number of frames of the video."""
        return self._length

    def part(self, start: int, stop: int) -> "Part":
        """The frames from `start` up to but not including `stop`; to be read before the next."""
        for reader in self._readers:
            if reader.position <= start:
                return Part(reader, self.fps, start, stop)
        self._readers.append(_Reader(self._read()))
        return Part(self._readers[-1], self.fps, start, stop)


class Part:
    """A part of a video, to be read once; satisfies `decode.Frames`."""

    def __init__(self, reader: "_Reader", fps: fractions.Fraction | None, start: int, stop: int):
        self.fps, self._reader, self._start, self._stop = fps, reader, start, stop

    def __len__(self) -> int:
        return self._stop - self._start

    def images(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        for index in indices:
            yield self._reader.image(self._start + index)


class _Reader:
    """Reads a video once, from its first frame to its last; `position` is the next frame."""

    def __init__(self, frames: decode.Frames):
        self.position = 0
        self._images = iter(frames.images(range(len(frames))))

    def image(self, number: int) -> Image.Image:
        """The frame of a number; skips those before it."""
        if number < self.position:
            raise ValueError(f"frame {number} is gone, the next one is {self.position}")
        while True:
            image = next(self._images)
            self.position += 1
            if self.position > number:
                return image
