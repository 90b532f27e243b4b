"""Graph convolutions on regions of all frames (Wang & Gupta 2018, "joint GCN").

A node is a region of a frame: RoIAlign on the reduced map, then the maximum of its cells. One
branch of layers passes messages between nodes that are similar, the other between regions of
neighbouring frames in proportion to their overlap, forward and backward in time. The sum of both
branches, averaged over nodes, goes to the classifier together with the mean of the map.

After the paper: no code of the authors is published. Layer norm with gain and bias, no shortcut in
a layer, and a bias in the reduction are our choices. The paper's regions are proposals of a
detector; here they are those of RSTG's grids, unless boxes are given.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.layers.norms import LayerNorm
from rstg_jax.rstg.region_graph import RegionGraph

CELLS = 7  # of RoIAlign, along each axis


class RegionGCN(nn.Module):
    """The joint GCN.

    Attributes:
      scales: of the grids whose cells are the regions, see `RegionGraph`.
      dim: features of the reduced map and of nodes.
      layers: of each branch.
      aligned: see `roi_align`.
    """

    scales: tuple[int, ...] = (3, 2, 1)
    dim: int = 512
    layers: int = 3
    aligned: bool = False

    @nn.compact
    def __call__(
        self, features: jax.Array, boxes: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """Features `[b t h w c]` -> `[b 1 2*dim]`, float32.

        Args:
          features: the last map.
          boxes: `[b t n 4]`, y0 x0 y1 x1 in fractions of the frame; the cells of the grids if None.
          train: unused, all behave alike.
        """
        x = nn.Dense(self.dim, dtype=features.dtype, name="reduce")(features)
        if boxes is None:
            grid = jnp.asarray(RegionGraph(self.scales).boxes, jnp.float32)
            boxes = jnp.broadcast_to(grid, (*x.shape[:2], *grid.shape))
        sides = jnp.asarray(2 * x.shape[2:4], jnp.float32)
        cells = jax.vmap(lambda x, boxes: roi_align(x, boxes, aligned=self.aligned))
        x = x.astype(jnp.float32)
        nodes = cells(x, boxes * sides).max(axis=(3, 4))  # [b t n d]
        graph = self.similarity(nodes)
        forward, backward = overlap_graphs(boxes)
        similar = near = nodes
        for number in range(self.layers):
            dense = self.dense(f"similarity{number}")
            mixed = jnp.einsum("btnsm,bsmd->btnd", graph, similar)
            similar = activated(dense(mixed), f"similarity{number}_norm")
            out = self.dense(f"forward{number}")(from_next(forward, near))
            out += self.dense(f"backward{number}")(from_previous(backward, near))
            near = activated(out, f"overlap{number}_norm")
        vectors = [(similar + near).mean(axis=(1, 2)), x.mean(axis=(1, 2, 3))]
        return jnp.concatenate(vectors, axis=-1)[:, None]

    def dense(self, name: str) -> nn.Dense:
        """A linear map of nodes."""
        return nn.Dense(self.dim, use_bias=False, name=name)

    def similarity(self, nodes: jax.Array) -> jax.Array:
        """Weights of all nodes for each node, which sum to 1: `[b t n d]` -> `[b t n t n]`."""
        query, key = self.dense("query")(nodes), self.dense("key")(nodes)
        logits = jnp.einsum("btnd,bsmd->btnsm", query, key)
        b, t, n = nodes.shape[:3]
        return nn.softmax(logits.reshape(b, t, n, t * n)).reshape(b, t, n, t, n)


def activated(x: jax.Array, name: str) -> jax.Array:
    """Layer norm and ReLU; to be called inside a compact method."""
    return nn.relu(LayerNorm(name=name)(x))


def overlap_graphs(boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Graphs between neighbouring frames, each row of which sums to 1, or is 0 without overlap.

    Args:
      boxes: `[b t n 4]`.

    Returns:
      `[b t-1 n n]` twice: weights for a node of frame t of the nodes of frame t+1, and weights for
      a node of frame t+1 of those of frame t.
    """
    overlap = intersection_over_union(boxes[:, :-1], boxes[:, 1:])
    return _rows(overlap), _rows(overlap.swapaxes(-1, -2))


def _rows(graph: jax.Array) -> jax.Array:
    total = graph.sum(axis=-1, keepdims=True)
    return graph / jnp.where(total > 0, total, 1)


def intersection_over_union(boxes: jax.Array, others: jax.Array) -> jax.Array:
    """Of every box with every other: `[... n 4]` and `[... m 4]` -> `[... n m]`."""
    boxes, others = boxes[..., :, None, :], others[..., None, :, :]
    start = jnp.maximum(boxes[..., :2], others[..., :2])
    end = jnp.minimum(boxes[..., 2:], others[..., 2:])
    both = jnp.maximum(end - start, 0).prod(axis=-1)
    areas = [(b[..., 2:] - b[..., :2]).prod(axis=-1) for b in (boxes, others)]
    union = areas[0] + areas[1] - both
    return both / jnp.where(union > 0, union, 1)


def from_next(graph: jax.Array, nodes: jax.Array) -> jax.Array:
    """Messages from the next frame, zeros for the last: `[b t n d]` -> the same."""
    messages = jnp.einsum("btnm,btmd->btnd", graph, nodes[:, 1:])
    return jnp.pad(messages, ((0, 0), (0, 1), (0, 0), (0, 0)))


def from_previous(graph: jax.Array, nodes: jax.Array) -> jax.Array:
    """Messages from the frame before, zeros for the first: `[b t n d]` -> the same."""
    messages = jnp.einsum("btnm,btmd->btnd", graph, nodes[:, :-1])
    return jnp.pad(messages, ((0, 0), (1, 0), (0, 0), (0, 0)))


def roi_align(
    features: jax.Array, boxes: jax.Array, samples: int = 0, *, aligned: bool = False
) -> jax.Array:
    """RoIAlign: means of bilinear samples in each of 7x7 cells of a box.

    As `torchvision.ops.roi_align` computes it. A sample is a product of weights of rows and of
    columns, hence so are the means, which are then two matrix products.

    Args:
      features: maps `[t h w c]`.
      boxes: `[t n 4]`, y0 x0 y1 x1 in pixels of the map.
      samples: along each axis of a cell; 0 takes as many as the cell has pixels, rounded up, for
        boxes of up to twice the map.
      aligned: pixel centres are at halves. False is the original, where they are at whole numbers
        and boxes are at least one pixel wide.

    Returns:
      `[t n 7 7 c]`.
    """
    height, width = features.shape[1:3]
    rows = cell_weights(boxes[..., 0], boxes[..., 2], height, samples, aligned)
    columns = cell_weights(boxes[..., 1], boxes[..., 3], width, samples, aligned)
    return jnp.einsum("thwc,tnyh,tnxw->tnyxc", features, rows, columns)


def cell_weights(
    start: jax.Array, end: jax.Array, length: int, samples: int, aligned: bool
) -> jax.Array:
    """Shares of the pixels along an axis in the means of cells: `[... n]` -> `[... n 7 length]`."""
    shift = 0.5 if aligned else 0.0
    side = end - start if aligned else jnp.maximum(end - start, 1)
    most = samples or -(-2 * length // CELLS)
    cell = side[..., None, None] / CELLS
    count = jnp.asarray(samples) if samples else jnp.clip(jnp.ceil(cell), 1, most)
    number = jnp.arange(most)
    places = jnp.arange(CELLS)[:, None] + (number + 0.5) / count
    places = start[..., None, None] - shift + places * cell  # [... n 7 most]
    is_counted = (number < count) & (places >= -1) & (places <= length)
    places = jnp.clip(places, 0, length - 1)[..., None]
    weights = jnp.maximum(1 - jnp.abs(places - jnp.arange(length)), 0)
    return jnp.where(is_counted[..., None], weights, 0).sum(axis=-2) / count
