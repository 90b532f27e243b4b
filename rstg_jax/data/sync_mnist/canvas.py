"""The canvas on which the digits of SyncMNIST move, in pixels, before frames are resized."""

from typing import Any

import numpy as np

from rstg_jax.data import object_maps

CANVAS = 100  # its side
SPRITE = 28  # side of a digit image
MAX_CORNER = CANVAS - SPRITE - 1  # 71: the largest row or column of a sprite's top left corner
MAX_STEP = 10  # a frame and axis
TRANSPARENT_BELOW = 10


def map_places(corners: Any, size: int) -> Any:
    """Corners -> centres on a map, as `rstg_jax.data.object_maps` takes them.

    The arithmetic of integers works for JAX arrays, too.
    """
    return (corners + SPRITE // 2) * (size * object_maps.CELL) // CANVAS - object_maps.CELL // 2


def sprite_boxes(corners: np.ndarray, frame_size: int = 64) -> np.ndarray:
    """Boxes of the sprites in pixels of the resized frame.

    Args:
      corners: [... 2] (row, column).
      frame_size: Rows and columns of a frame.

    Returns:
      float32 [... 4]: y0, x0, y1, x1, where a pixel's edges are integers.
    """
    corners = np.asarray(corners, np.float32)
    return np.concatenate([corners, corners + SPRITE], axis=-1) * np.float32(frame_size / CANVAS)
