"""The homogeneous baseline: one graph over all frames, space and time edges treated alike.

Source: poster, "RSTG Homogeneous". A region's neighbours are its neighbours in the same frame and
itself in the frame before and after; send, gather and update are those of `rstg_jax.space` with one
softmax over all of them. Nothing recurs, so news travels one frame a round.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rstg_jax.space import Edges, Gather, Send, dot_logits, masked_softmax, simple_logits

# The same region one frame before and one frame after: how far to move it along the frames.
SHIFTS = (1, -1)


class SpaceTimeSend(Send):
    """Messages inside frames and between neighbouring frames, from one MLP."""

    def _pairs(self, source: jax.Array, destination: jax.Array, edges: Edges) -> jax.Array:
        """Sums of both ends' terms, `[e + 2n t b d]`: edges of a frame, then before, then after."""
        inside = super()._pairs(source, destination, edges)
        across = [shift(source, by) + destination for by in SHIFTS]
        return jnp.concatenate([inside, *across])


class SpaceTimeGather(Gather):
    """Attention over neighbours in the frame and the region itself in the frames beside it."""

    @nn.compact
    def __call__(
        self, nodes: jax.Array, messages: jax.Array, adjacency: np.ndarray, edges: Edges
    ) -> tuple[jax.Array, jax.Array]:
        """As `Gather`, messages `[e + 2n t b d]`; the attention returned is that inside frames."""
        count, frames = nodes.shape[:2]
        destination, source = self._endpoints(nodes)
        beside = jnp.stack([shift(source, by) for by in SHIFTS], axis=1)  # [n 2 t b h ...]
        score = simple_logits if self.kind == "simple" else dot_logits
        exists = np.array([[0 <= t - by < frames for t in range(frames)] for by in SHIFTS])  # [2 t]
        everyone = jnp.ones(count + len(SHIFTS), nodes.dtype)

        def attend(one: jax.Array, itself: jax.Array, row: jax.Array) -> jax.Array:
            logits = score(one, jnp.concatenate([source, itself]), everyone, "exclude")
            inside = jnp.broadcast_to(row[:, None], (count, frames))
            allowed = jnp.concatenate([inside, exists])[..., None, None]  # [n + 2 t 1 1]
            return masked_softmax(logits, allowed)

        attention = jax.vmap(attend)(destination, beside, jnp.asarray(adjacency, jnp.float32))
        # A frame's own edges, then the two across frames, all by their destination.
        nodes_twice = np.tile(np.arange(count), len(SHIFTS))
        slots = np.repeat(count + np.arange(len(SHIFTS)), count)
        union = Edges(
            np.concatenate([edges.source, slots]),
            np.concatenate([edges.destination, nodes_twice]),
        )
        return self._weighted_sum(messages, attention, union), attention[:, :count]


def shift(x: jax.Array, by: int) -> jax.Array:
    """Moves `[n t ...]` along the frames, zeros moving in."""
    pad = [(0, 0)] * x.ndim
    pad[1] = (max(by, 0), max(-by, 0))
    length = x.shape[1]
    return jnp.pad(x, pad)[:, max(-by, 0) : max(-by, 0) + length]
