"""Warped copies of digit images: turned, scaled, slanted and bent a little.

They stand for handwriting that the training images lack; no test image is ever warped. Not in the
paper.
"""

import numpy as np
from scipy import ndimage

from rstg_jax.data.sync_mnist.canvas import SPRITE
from rstg_jax.data.sync_mnist.generator import Digits

LINEAR = 0.15  # largest entry of (matrix - identity): about 9 degrees, or 15% of the size
BEND = 1.2  # largest displacement by each wave, in pixels
WAVES = 2  # along each axis; the longest has one and a half sprites
_AT_ONCE = 2000  # images; bounds the memory


def with_warps(digits: Digits, copies: int, seed: int) -> Digits:
    """Returns the images and, after them, warped copies of all.

    Args:
      digits: Images.
      copies: Of each image, each warped in another way.
      seed: 0..2**64 - 1. Copy i of image j is a function of (seed, i, j, image j) alone.

    Returns:
      `copies + 1` times as many images; every `len(digits)` of them have the order of `digits`.
    """
    images = [digits.images]
    basis = _basis()
    for copy in range(copies):
        stream = np.random.Philox(key=np.array([seed, copy], np.uint64))
        bits = stream.random_raw(len(digits) * basis.shape[1] * 2)
        strengths = (bits / 2.0**63 - 1).reshape(len(digits), basis.shape[1], 2)  # of -1..1
        images += [
            _warp(digits.images[start : start + _AT_ONCE], basis @ strengths[start:][:_AT_ONCE])
            for start in range(0, len(digits), _AT_ONCE)
        ]
    return Digits(np.concatenate(images), np.tile(digits.classes, copies + 1))


def _basis() -> np.ndarray:
    """Fields of displacement in pixels, [pixels fields]: two linear ones and some waves."""
    along = np.arange(SPRITE) - (SPRITE - 1) / 2
    y, x = (grid.ravel() for grid in np.meshgrid(along, along, indexing="ij"))
    angles = np.pi * np.arange(1, WAVES + 1) / SPRITE * (4 / 3)
    waves = [
        BEND / number * first(angle * u) * np.cos(angle * v)
        for number, angle in enumerate(angles, start=1)
        for first in (np.cos, np.sin)
        for u, v in ((y, x), (x, y))
    ]
    return np.stack([LINEAR * y, LINEAR * x, *waves], axis=-1)


def _warp(images: np.ndarray, displacements: np.ndarray) -> np.ndarray:
    """Reads uint8 [n 28 28] at every pixel's place plus its displacement [n 784 2], bilinearly."""
    places = np.indices((SPRITE, SPRITE)).reshape(2, -1).T + displacements
    coordinates = np.empty((3, *places.shape[:2]))
    coordinates[0] = np.arange(len(images))[:, None]
    coordinates[1:] = np.moveaxis(places, -1, 0)
    values = ndimage.map_coordinates(images.astype(np.float32), coordinates, order=1)
    return np.rint(values).astype(np.uint8).reshape(images.shape)
