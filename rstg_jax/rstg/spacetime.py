"""Space and time edges in one graph over all frames: the homogeneous baseline.

Source: poster, "RSTG Homogeneous". The neighbours of a region are its neighbours in the same frame
and the same region in the frames before and after. Send, gather and update are those of
`rstg_jax.rstg.message_passing`, with one softmax over all neighbours. Without recurrence,
information travels one frame per round.
"""

import jax
import jax.numpy as jnp
import numpy as np

from rstg_jax.layers.array_types import Array, Bool, Float, Shaped
from rstg_jax.rstg.config import Attention
from rstg_jax.rstg.message_passing import (
    AttentionWeights,
    Edges,
    attention_weights,
    endpoints,
    in_gather,
)

SHIFTS = (1, -1)  # from the frame before, from the frame after


def add_frame_edges(edges: Edges) -> Edges:
    """Adds edges from the same region in the frame before, then in the frame after.

    Their senders are rows of `with_neighbouring_frames`.
    """
    n = edges.num_nodes
    nodes = np.arange(n)
    frames = range(1, 1 + len(SHIFTS))
    return Edges(
        np.concatenate([edges.senders, *[nodes + n * frame for frame in frames]]),
        np.concatenate([edges.receivers, *[nodes for _ in frames]]),
        n,
    )


def with_neighbouring_frames(nodes: Float[Array, "n t b d"]) -> Float[Array, "m t b d"]:
    """Nodes of each frame, followed by those of the frame before and of the frame after."""
    return jnp.concatenate([nodes, *[shift(nodes, by) for by in SHIFTS]])


@in_gather
def attend_across_frames(
    weights: AttentionWeights,
    nodes: Float[Array, "n t b d"],
    adjacency: Bool[np.ndarray, "n n"],
    kind: Attention,
    num_heads: int,
) -> Float[Array, "n j t b h"]:
    """Attention of each node to the nodes of its frame, then to itself before and after.

    Returns:
      `[n n+2 t b h]`.
    """
    n, t = nodes.shape[:2]
    receivers, senders = endpoints(weights, nodes, kind, num_heads)
    itself = jnp.stack([shift(senders, by) for by in SHIFTS], axis=1)  # [n 2 t b h ...]
    exists = [[0 <= frame - by < t for frame in range(t)] for by in SHIFTS]  # [2 t]
    neighbours = np.concatenate(
        [
            np.broadcast_to(adjacency[..., None], (n, n, t)),
            np.broadcast_to(np.array(exists), (n, len(SHIFTS), t)),
        ],
        axis=1,
    )

    def attend_one(receiver: Array, itself: Array, neighbours: Array) -> Array:
        others = jnp.concatenate([senders, itself])
        return attention_weights(receiver, others, neighbours, kind, "exclude")

    return jax.vmap(attend_one)(receivers, itself, jnp.asarray(neighbours, nodes.dtype))


def shift(x: Shaped[Array, "n t *rest"], by: int) -> Shaped[Array, "n t *rest"]:
    """Moves an array along the frames and fills with zeros."""
    pad = [(0, 0)] * x.ndim
    pad[1] = (max(by, 0), max(-by, 0))
    length = x.shape[1]
    return jnp.pad(x, pad)[:, max(-by, 0) : max(-by, 0) + length]
