"""RoIAlign (He et al. 2017): boxes of feature maps, resampled to one size."""

import jax.numpy as jnp

from rstg_jax.layers.array_types import Array, Float

CELLS = 7  # along each axis


def roi_align(
    features: Float[Array, "t h w c"],
    boxes: Float[Array, "t n 4"],
    *,
    aligned: bool = False,
) -> Float[Array, "t n 7 7 c"]:
    """RoIAlign: means of bilinear samples in each of 7x7 cells of a box.

    As `torchvision.ops.roi_align` computes it. Along each axis of a cell there are as many samples
    as the cell has pixels, rounded up, for boxes of up to twice the map. A sample is a product of
    weights of rows and of columns, hence so are the means, which are then two matrix products.

    Args:
      features: maps `[t h w c]`.
      boxes: `[t n 4]`, y0 x0 y1 x1 in pixels of the map.
      aligned: pixel centres are at halves. False is the original, where they are at whole numbers
        and boxes are at least one pixel wide.

    Returns:
      `[t n 7 7 c]`.
    """
    height, width = features.shape[1:3]
    rows = cell_weights(boxes[..., 0], boxes[..., 2], height, aligned)
    columns = cell_weights(boxes[..., 1], boxes[..., 3], width, aligned)
    return jnp.einsum("thwc,tnyh,tnxw->tnyxc", features, rows, columns)


def cell_weights(
    start: Float[Array, "*n"], end: Float[Array, "*n"], length: int, aligned: bool
) -> Float[Array, "*n 7 {length}"]:
    """Shares of the pixels along an axis in the means of cells: `[... n]` -> `[... n 7 length]`."""
    shift = 0.5 if aligned else 0.0
    side = end - start if aligned else jnp.maximum(end - start, 1)
    most = -(-2 * length // CELLS)
    cell = side[..., None, None] / CELLS
    count = jnp.clip(jnp.ceil(cell), 1, most)
    number = jnp.arange(most)
    places = jnp.arange(CELLS)[:, None] + (number + 0.5) / count
    places = start[..., None, None] - shift + places * cell  # [... n 7 most]
    is_counted = (number < count) & (places >= -1) & (places <= length)
    places = jnp.clip(places, 0, length - 1)[..., None]
    weights = jnp.maximum(1 - jnp.abs(places - jnp.arange(length)), 0)
    return jnp.where(is_counted[..., None], weights, 0).sum(axis=-2) / count
