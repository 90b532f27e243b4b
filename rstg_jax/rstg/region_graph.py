"""The region graph: regions of an image as nodes, their neighbours, and pooling of maps to nodes.

Every array here is a NumPy constant that depends on sizes only. `ObjectGraph` is for nodes that are
objects, wherever they are; it is not in the paper.
Source: paper section 3.1 and the constants of the official code (`get_adjacency`, area resizing).
"""

import dataclasses
import functools
import math
from collections.abc import Iterator

import numpy as np

from rstg_jax.errors import UserError
from rstg_jax.layers.array_types import Bool, Float32, Float64, Int

# Official position maps are drawn on a 6x6 grid with a Gaussian of two cells.
POSITION_GRID = 6
POSITION_SIGMA = 2.0


@dataclasses.dataclass(frozen=True)
class RegionGraph:
    """Regions of a frame as graph nodes.

    Nodes are the cells of one grid per scale: all cells of `scales[0]` in row-major order, then
    `scales[1]`, and so on. Two nodes are neighbours when their cells overlap or touch along a side
    (a shared corner point does not count), or all of them are; a node is never its own neighbour.

    Attributes:
      scales: rows (= columns) of each grid; the paper uses `(3, 2, 1)`, 14 nodes and 45 edges.
      map_size: height and width of the feature map that is pooled into the nodes.
      frame_size: height and width of the frame in pixels. The official code rounds cells down to
        whole pixels before it compares them, which changes the edges with five or more scales.
        `None` compares the exact cells.
      complete: every node is the neighbour of every other one.
    """

    scales: tuple[int, ...] = (3, 2, 1)
    map_size: tuple[int, int] = (6, 6)
    frame_size: tuple[int, int] | None = None
    complete: bool = False

    def __post_init__(self) -> None:
        if not self.scales:
            raise UserError("scales is empty: give at least one grid size, such as (3, 2, 1)")
        if any(scale < 1 for scale in self.scales):
            raise UserError(f"scales {self.scales}: every grid size must be at least 1")
        if min(self.map_size) < 1:
            raise UserError(f"map_size {self.map_size}: height and width must be positive")

    @property
    def num_nodes(self) -> int:
        """Number of regions: the sum of the squared scales."""
        return sum(scale * scale for scale in self.scales)

    @functools.cached_property
    def scale_slices(self) -> tuple[slice, ...]:
        """For each scale, the slice of the node axis that holds its cells."""
        ends = np.cumsum([scale * scale for scale in self.scales])
        return tuple(
            slice(int(end) - scale * scale, int(end))
            for scale, end in zip(self.scales, ends, strict=True)
        )

    @functools.cached_property
    def boxes(self) -> Float64[np.ndarray, "n 4"]:
        """Cells as `y0, x0, y1, x1` in fractions of the frame."""
        return np.array(
            [
                (row / scale, column / scale, (row + 1) / scale, (column + 1) / scale)
                for scale, row, column in self._cells()
            ]
        )

    @functools.cached_property
    def centers(self) -> Float64[np.ndarray, "n 2"]:
        """Centres of the cells as `y, x` in fractions of the frame."""
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2

    @functools.cached_property
    def pixel_boxes(self) -> Int[np.ndarray, "n 4"]:
        """Cells as `y0, x0, y1, x1` in whole pixels.

        With `frame_size` the side of a cell is rounded down as in the official code. Without it the
        frame is as wide as the least common multiple of the scales, so that nothing is rounded.
        """
        exact = math.lcm(*self.scales)
        height, width = self.frame_size or (exact, exact)
        cells = np.array(list(self._cells()))
        sides = np.stack([height // cells[:, 0], width // cells[:, 0]], axis=1)
        starts = cells[:, 1:] * sides
        return np.concatenate([starts, starts + sides], axis=1)

    @functools.cached_property
    def adjacency(self) -> Bool[np.ndarray, "n n"]:
        """Symmetric neighbourhood with a zero diagonal."""
        others = ~np.eye(self.num_nodes, dtype=bool)
        if self.complete:
            return others
        start, end = self.pixel_boxes[:, :2], self.pixel_boxes[:, 2:]
        overlap = np.minimum(end[:, None], end[None]) - np.maximum(start[:, None], start[None])
        meets = (overlap >= 0).all(axis=-1)
        only_corner = (overlap == 0).all(axis=-1)
        return meets & ~only_corner & others

    @functools.cached_property
    def pool(self) -> Float32[np.ndarray, "n h w"]:
        """Area average of a map over each cell; the weights of each node sum to 1."""
        height, width = self.map_size
        grids = [
            np.einsum("ih,jw->ijhw", area_weights(height, scale), area_weights(width, scale))
            for scale in self.scales
        ]
        flat = [grid.reshape(-1, height, width) for grid in grids]
        return np.concatenate(flat).astype(np.float32)

    @functools.cached_property
    def unpool(self) -> Float32[np.ndarray, "h w n"]:
        """Area resizing of the grid of each scale to the map, summed over scales."""
        height, width = self.map_size
        grids = [
            np.einsum("hi,wj->hwij", area_weights(scale, height), area_weights(scale, width))
            for scale in self.scales
        ]
        flat = [grid.reshape(height, width, -1) for grid in grids]
        return np.concatenate(flat, axis=-1).astype(np.float32)

    @functools.cached_property
    def position_maps(self) -> Float32[np.ndarray, "n 36"]:
        """Gaussian heat map of each cell on a flattened 6x6 grid.

        The grid is cut into blocks of side `6 // scale`. The Gaussian is not normalised, centred in
        the block of the node and zero outside it (official). Scales above 6 give zeros.
        """
        maps = np.zeros((self.num_nodes, POSITION_GRID, POSITION_GRID), np.float32)
        for node, (scale, row, column) in enumerate(self._cells()):
            side = POSITION_GRID // scale
            offset = np.arange(side) - (side - 1) / 2
            bump = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * POSITION_SIGMA**2))
            maps[node, row * side : (row + 1) * side, column * side : (column + 1) * side] = bump
        return maps.reshape(self.num_nodes, -1)

    def _cells(self) -> Iterator[tuple[int, int, int]]:
        """Yields `(scale, row, column)` of every node in node order."""
        for scale in self.scales:
            for row in range(scale):
                for column in range(scale):
                    yield scale, row, column


@dataclasses.dataclass(frozen=True)
class ObjectGraph:
    """Objects as graph nodes; any two are neighbours. Not in the paper.

    Attributes:
      num_nodes: number of objects. Each has the same number in every frame, whether it is in the
        frame or not.
    """

    num_nodes: int

    @property
    def scale_slices(self) -> tuple[slice, ...]:
        """All nodes are of one kind."""
        return (slice(0, self.num_nodes),)

    @functools.cached_property
    def adjacency(self) -> Bool[np.ndarray, "n n"]:
        """All others."""
        return ~np.eye(self.num_nodes, dtype=bool)

    @functools.cached_property
    def position_maps(self) -> Float32[np.ndarray, "n n"]:
        """Which object it is, in place of a region's position, which objects do not have."""
        return np.eye(self.num_nodes, dtype=np.float32)


Graph = RegionGraph | ObjectGraph


def area_weights(size_in: int, size_out: int) -> Float32[np.ndarray, "{size_out} {size_in}"]:
    """Weights that resize one axis by area; rows sum to 1.

    Output cell `o` averages the input interval `[o, o + 1] * size_in / size_out`; fractional
    pixels count by their overlap. The interval ends are rounded to float32 as in TensorFlow's
    `ResizeArea`; otherwise enlarged maps would differ from the official constants by over 1e-6.
    """
    scale = np.float32(size_in) / np.float32(size_out)
    cells = np.arange(size_out, dtype=np.float32)[:, None]
    pixels = np.arange(size_in, dtype=np.float32)[None, :]
    start, end = cells * scale, (cells + 1) * scale
    overlap = np.minimum(end, pixels + 1) - np.maximum(start, pixels)
    inside_one_pixel = (pixels < start) & (end < pixels + 1)
    return np.where(inside_one_pixel, scale, np.clip(overlap, 0, None)) / scale
