"""The homogeneous baseline: one graph over all frames, space and time edges treated alike.

Source: poster, "RSTG Homogeneous". A region's neighbours are its neighbours in the same frame and
itself in the frame before and after; send, gather and update are those of
`rstg_jax.rstg.message_passing` with one softmax over all of them. Nothing recurs, so news travels
one frame a round.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rstg_jax.rstg.message_passing import (
    Edges,
    Gather,
    Send,
    Weights,
    additive_logits,
    dot_logits,
    masked_softmax,
)

# The same region one frame before and one frame after: how far to move it along the frames.
SHIFTS = (1, -1)


def across_frames(edges: Edges) -> Edges:
    """Adds edges from what `SpaceTimeSend` sends from the frame before, then from that after."""
    nodes = np.arange(edges.nodes)
    beside = [nodes + edges.nodes * (1 + slot) for slot in range(len(SHIFTS))]
    return Edges(
        np.concatenate([edges.source, *beside]),
        np.concatenate([edges.destination, *[nodes for _ in SHIFTS]]),
        edges.nodes,
    )


class SpaceTimeSend(Send):
    """Sources are the nodes of a frame, then those of the frame before, then those after."""

    def _sources(self, source: jax.Array) -> jax.Array:
        return jnp.concatenate([source, *[shift(source, by) for by in SHIFTS]])


class SpaceTimeGather(Gather):
    """Attention over neighbours in the frame and the region itself in the frames beside it."""

    @nn.compact
    def __call__(
        self, nodes: jax.Array, adjacency: np.ndarray, edges: Edges
    ) -> tuple[jax.Array, jax.Array, Weights | None]:
        """As `Gather`, for edges of `across_frames`; the attention is that inside frames."""
        count, frames = nodes.shape[:2]
        destination, source = self._endpoints(nodes)
        beside = jnp.stack([shift(source, by) for by in SHIFTS], axis=1)  # [n 2 t b h ...]
        score = additive_logits if self.kind == "additive" else dot_logits
        exists = np.array([[0 <= t - by < frames for t in range(frames)] for by in SHIFTS])  # [2 t]
        everyone = jnp.ones(count + len(SHIFTS), nodes.dtype)

        def attend(one: jax.Array, itself: jax.Array, row: jax.Array) -> jax.Array:
            logits = score(one, jnp.concatenate([source, itself]), everyone, "exclude")
            inside = jnp.broadcast_to(row[:, None], (count, frames))
            allowed = jnp.concatenate([inside, exists])[..., None, None]  # [n + 2 t 1 1]
            return masked_softmax(logits, allowed)

        attention = jax.vmap(attend)(destination, beside, jnp.asarray(adjacency, jnp.float32))
        # Behind the nodes of the frame each destination compares itself, once before, once after.
        slot = np.where(edges.source < count, edges.source, count - 1 + edges.source // count)
        weights = attention[edges.destination, slot].astype(nodes.dtype)
        return attention[:, :count], weights, self._projection(nodes)


def shift(x: jax.Array, by: int) -> jax.Array:
    """Moves `[n t ...]` along the frames, zeros moving in."""
    pad = [(0, 0)] * x.ndim
    pad[1] = (max(by, 0), max(-by, 0))
    length = x.shape[1]
    return jnp.pad(x, pad)[:, max(-by, 0) : max(-by, 0) + length]
