"""Draws the videos of SyncMNIST: sprites on a canvas, then resized as Pillow does."""

import numpy as np

from rstg_jax.data.sync_mnist import pillow_resize
from rstg_jax.data.sync_mnist.canvas import CANVAS, TRANSPARENT_BELOW

# Each frame is stretched from 0..maximum to 0..255 like scipy.misc.bytescale does, in float64. The
# minimum is always 0, for the ten sprites that a video can have do not cover the canvas.
STRETCH = np.stack(
    [np.floor(np.minimum(np.arange(256.0) * (255.0 / max(m, 1)), 255.0) + 0.5) for m in range(256)]
)


class Renderer:
    """Draws videos from digit images and positions, byte for byte like the official generator.

    Args:
      images: uint8 [image 28 28].
      frame_size: Rows and columns of a frame.
    """

    # Measured: canvases of about 80 frames (1.6 MB) are fastest, within a factor of 1.1 from 40 to
    # 160.
    _BLOCK = 80

    def __init__(self, images: np.ndarray, frame_size: int = 64):
        self.frame_size = frame_size
        self._resize = pillow_resize.BilinearResize((CANVAS, CANVAS), (frame_size, frame_size))
        image, row, column = np.nonzero(images >= TRANSPARENT_BELOW)
        # Opaque pixels, image after image: where on the canvas (x-major) and which value.
        self._counts = np.bincount(image, minlength=len(images))
        self._starts = np.cumsum(self._counts) - self._counts
        self._offsets = column * CANVAS + row
        self._values = images[image, row, column].astype(self._resize.dtype)
        self._stretch = STRETCH.astype(self._resize.dtype)

    def __call__(self, images: np.ndarray, coords: np.ndarray) -> np.ndarray:
        """Renders b videos.

        Args:
          images: int [b n], index of each digit's image, the lowest layer first.
          coords: int [b t n 2], (row, column) of each sprite's corner, 0..72.

        Returns:
          uint8 [b t h w 1].
        """
        b, t, _, _ = coords.shape
        videos = np.empty((b, t, self.frame_size, self.frame_size, 1), np.uint8)
        corners = coords[..., 1].astype(np.int64) * CANVAS + coords[..., 0]
        size = max(1, self._BLOCK // t)
        for first in range(0, b, size):
            block = slice(first, first + size)
            frames = videos[block].reshape(-1, self.frame_size, self.frame_size)
            self._resize(self._canvas(images[block], corners[block]), out=frames)
        return videos

    def _canvas(self, images: np.ndarray, corners: np.ndarray) -> np.ndarray:
        """Images [b n] at canvas positions [b t n] -> integers 0..255 [x y b*t]."""
        b, t, n = corners.shape
        frames = b * t
        canvas = np.zeros((CANVAS, CANVAS * frames), self._resize.dtype)
        # Layer after layer: [n*b] sprites in t frames each, and their places in the flat canvas.
        layers = images.T.reshape(-1)
        places = corners * frames + np.arange(frames).reshape(b, t, 1)  # [b t n]
        self._paste(canvas, layers, places.transpose(1, 2, 0).reshape(t, -1), frames)
        maxima = canvas.max(0).reshape(CANVAS, frames).max(0)
        dim = np.flatnonzero(maxima < 255)
        if len(dim):  # painted once more with stretched values over the old ones
            layers = images[dim // t].T.reshape(-1)
            places = places.reshape(frames, n)[dim].T.reshape(1, -1)
            self._paste(canvas, layers, places, frames, np.tile(maxima[dim], n))
        return canvas.reshape(CANVAS, CANVAS, frames)

    def _paste(
        self,
        canvas: np.ndarray,
        images: np.ndarray,
        places: np.ndarray,
        frames: int,
        maxima: np.ndarray | None = None,
    ) -> None:
        """Pastes images [s] at places [t s] of the flat canvas, the last one on top.

        Values are stretched from the maxima [s] of the frames, if given.
        """
        counts = self._counts[images]
        skipped = np.cumsum(counts) - counts - self._starts[images]
        pixels = np.arange(counts.sum()) - np.repeat(skipped, counts)
        values = self._values[pixels]
        if maxima is not None:
            values = self._stretch[np.repeat(maxima, counts), values]
        index = np.repeat(places, counts, axis=1)
        index += self._offsets[pixels] * frames
        # Where an index is repeated, NumPy leaves the last value.
        canvas.reshape(-1)[index.reshape(-1)] = np.tile(values, len(index))
