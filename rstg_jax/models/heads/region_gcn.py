"""Graph convolutions on regions of all frames (Wang & Gupta 2018, "joint GCN").

A node is a region of a frame: RoIAlign on the reduced map, then the maximum of its cells. One
branch of layers passes messages between nodes that are similar, the other between regions of
neighbouring frames in proportion to their overlap, forward and backward in time. The sum of both
branches, averaged over nodes, goes to the classifier together with the mean of the map.

After the paper: no code of the authors is published. Layer norm with gain and bias, no shortcut in
a layer, and a bias in the reduction are our choices. The paper's regions are proposals of a
detector, which the data set must bring; or they are those of RSTG's grids.
"""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.errors import UserError
from rstg_jax.layers.norms import LayerNorm
from rstg_jax.layers.roi_align import roi_align
from rstg_jax.models.heads.base import FinalBlock, HeadConfig
from rstg_jax.rstg.region_graph import RegionGraph

NEVER = -1e30  # logit of a node without weight


@dataclasses.dataclass(frozen=True)
class RegionGCNHead(HeadConfig):
    """Graph convolutions on regions, beside the mean of the map.

    Attributes:
      regions: "grids": the cells of RSTG's grids; "boxes": boxes of objects that come with a clip.
      scales: of the grids whose cells are the regions, as of RSTG.
      dim: features of nodes.
      layers: of each of the two branches.
      aligned: whether RoIAlign has pixel centres at halves.
    """

    final_block: ClassVar[FinalBlock] = "unused"

    regions: Literal["grids", "boxes"] = "grids"
    scales: tuple[int, ...] = (3, 2, 1)
    dim: int = 512
    layers: int = 3
    aligned: bool = False

    def __post_init__(self) -> None:
        if min(self.dim, self.layers) < 1:
            raise UserError("RegionGCNHead needs dim and layers of at least 1")
        _ = RegionGraph(self.scales)  # checks them

    @property
    def reads_boxes(self) -> bool:
        return self.regions == "boxes"

    def build(self, name: str) -> "RegionGCN":
        return RegionGCN(self, name=name)


class RegionGCN(nn.Module):
    """The joint GCN."""

    config: RegionGCNHead

    @nn.compact
    def __call__(
        self, features: jax.Array, boxes: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """Features `[b t h w c]` -> `[b 1 2*dim]`, float32.

        Args:
          features: the last map.
          boxes: `[b frames n 4]`, y0 x0 y1 x1 in fractions of the frame; those without area have no
            effect. The cells of the grids if None.
          train: unused, all behave alike.

        Raises:
          UserError: boxes are wanted and there are none, or they are of other frames.
        """
        config = self.config
        is_real = None
        if boxes is not None:
            boxes = of_map(boxes, features.shape[1])
            is_real = (boxes[..., 2:] > boxes[..., :2]).all(axis=-1)  # [b t n]
        elif config.reads_boxes and not self.is_initializing():
            raise UserError(
                "head.regions=boxes: this network reads boxes of objects, which data sets bring "
                "with data.boxes; a video alone has none"
            )
        x = nn.Dense(config.dim, dtype=features.dtype, name="reduce")(features)
        if boxes is None:
            grid = jnp.asarray(RegionGraph(config.scales).boxes, jnp.float32)
            boxes = jnp.broadcast_to(grid, (*x.shape[:2], *grid.shape))
        sides = jnp.asarray(2 * x.shape[2:4], jnp.float32)
        cells = jax.vmap(lambda x, boxes: roi_align(x, boxes, aligned=config.aligned))
        x = x.astype(jnp.float32)
        nodes = cells(x, boxes * sides).max(axis=(3, 4))  # [b t n d]
        graph = self.similarity(nodes, is_real)
        forward, backward = overlap_graphs(boxes)
        similar = near = nodes
        for number in range(config.layers):
            dense = self.dense(f"similarity{number}")
            mixed = jnp.einsum("btnsm,bsmd->btnd", graph, similar)
            similar = activated(dense(mixed), f"similarity{number}_norm")
            out = self.dense(f"forward{number}")(from_next(forward, near))
            out += self.dense(f"backward{number}")(from_previous(backward, near))
            near = activated(out, f"overlap{number}_norm")
        vectors = [mean_of_nodes(similar + near, is_real), x.mean(axis=(1, 2, 3))]
        return jnp.concatenate(vectors, axis=-1)[:, None]

    def dense(self, name: str) -> nn.Dense:
        """A linear map of nodes."""
        return nn.Dense(self.config.dim, use_bias=False, name=name)

    def similarity(self, nodes: jax.Array, is_real: jax.Array | None) -> jax.Array:
        """Weights of all nodes for each node, which sum to 1.

        Args:
          nodes: `[b t n d]`.
          is_real: which of them count, bool `[b t n]`; all if None.

        Returns:
          `[b t n t n]`; 0 for nodes that do not count, unless there are no others.
        """
        query, key = self.dense("query")(nodes), self.dense("key")(nodes)
        logits = jnp.einsum("btnd,bsmd->btnsm", query, key)
        if is_real is not None:
            logits = jnp.where(is_real[:, None, None], logits, NEVER)
        b, t, n = nodes.shape[:3]
        return nn.softmax(logits.reshape(b, t, n, t * n)).reshape(b, t, n, t, n)


def of_map(boxes: jax.Array, frames: int) -> jax.Array:
    """The boxes of every frame of a map, whose time may be pooled: of the middle of its frames.

    With two frames for one of the map that is the first, as in the paper ("every second frame").
    """
    pooled, rest = divmod(boxes.shape[1], frames)
    if rest:
        raise UserError(
            f"boxes of {boxes.shape[1]} frames do not fit a feature map of {frames} frames"
        )
    return boxes[:, (pooled - 1) // 2 :: pooled]


def mean_of_nodes(nodes: jax.Array, is_real: jax.Array | None) -> jax.Array:
    """The mean of the nodes that count, 0 if there are none: `[b t n d]` -> `[b d]`."""
    if is_real is None:
        return nodes.mean(axis=(1, 2))
    total = jnp.where(is_real[..., None], nodes, 0).sum(axis=(1, 2))
    return total / jnp.maximum(is_real.sum(axis=(1, 2)), 1)[:, None]


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
