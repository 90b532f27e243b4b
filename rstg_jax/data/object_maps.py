"""Light frames: small maps with a channel for each kind of object instead of pictures.

A model reads them without a backbone that would have to recognise anything, so that experiments on
memory measure the recurrence. An object is a spot of four cells whose weights give its place to a
hundredth of a cell. Integers only: NumPy and JAX draw the same bytes.
"""

from typing import Any

CELL = 255  # units of a place in a cell


def draw(xp: Any, places: Any, kinds: Any, num_kinds: int, size: int) -> Any:
    """Draws objects on square maps.

    Args:
      xp: `numpy` or `jax.numpy`.
      places: Centres, int `[... t n 2]`, (row, column) in units of 1/255 cell from the middle of
        the first cell; outside of 0..255 * (size - 1) an object is cut off.
      kinds: Channel of each object, int `[... n]`.
      num_kinds: Number of channels c.
      size: Rows and columns of a map.

    Returns:
      uint8 `[... t h w c]`: 255 for a cell with an object exactly in it.
    """
    middles = CELL * xp.arange(size)
    weights = xp.maximum(CELL - abs(places[..., None] - middles), 0)  # [... t n 2 size]
    spots = (weights[..., 0, :, None] * weights[..., 1, None, :]).astype(xp.int32)
    channel = (kinds[..., None] == xp.arange(num_kinds)).astype(xp.int32)
    maps = xp.einsum("...tnhw,...nc->...thwc", spots, channel)
    return xp.minimum((maps + CELL // 2) // CELL, 255).astype(xp.uint8)
