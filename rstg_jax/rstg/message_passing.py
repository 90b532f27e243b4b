"""Send, gather and update on the region graph of every frame.

Source: paper section 3.2. Everything here is a pure function of weights and arrays. The functions
of the first part compute ONE node or ONE edge in every frame of every clip, `[t b d]`; those of the
second part compute all of them, with the nodes or edges as the first axis, `[n t b d]`.

With nodes first, picking the ends of all edges and summing over the edges of a node are each one
product with a constant 0/1 matrix. Its gradient is again a product, where the gradient of a gather
would be a scatter.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rstg_jax.layers.array_types import Array, Bool, Float
from rstg_jax.layers.linear import Dense, constant_product, linear
from rstg_jax.layers.precision import widened
from rstg_jax.rstg.config import Attention, Masking

LEAKY_SLOPE = 0.2
MASKED_LOGIT = -1e30  # finite, because a softmax over nothing but -inf is NaN


# Names of the operations in profiles and in `rstg_jax.models.flops`: those of the weights they use.
in_send, in_gather, in_update = (
    functools.partial(jax.named_call, name=name) for name in ("send", "gather", "update")
)


class Edges(NamedTuple):
    """Directed edges, as in jraph.

    Attributes:
      senders: row of the sender of each edge, int `[e]`.
      receivers: node that receives its message, int `[e]`.
      num_nodes: number of receiving nodes.
    """

    senders: np.ndarray
    receivers: np.ndarray
    num_nodes: int


class SendWeights(NamedTuple):
    """Message MLP. Rows of the first kernel: `[v_j | p_j | v_i | p_i]` for an edge j -> i."""

    first: Dense
    second: Dense


class AttentionWeights(NamedTuple):
    """Projections that attention compares: scores `[d 1]` or queries and keys `[d d]`."""

    receiver: Dense
    sender: Dense


def edges_of(adjacency: Bool[np.ndarray, "n n"], masking: Masking) -> Edges:
    """Edges that carry messages: those of the graph, or all ordered pairs.

    Official masking multiplies the logits by the adjacency, which excludes nobody. There every node
    sends to every node, itself included, and the softmax runs over all of them.
    """
    pairs = adjacency if masking == "exclude" else np.ones_like(adjacency)
    receivers, senders = np.nonzero(pairs)
    return Edges(senders, receivers, len(adjacency))


# --- one node, one edge ---------------------------------------------------------------------------
#
# Attention is mapped over receivers by `jax.vmap`. Functions with linear layers take all nodes or
# edges as a leading axis instead: under `jax.vmap`, `linear` would see one of them and could not
# flatten them all to one matrix, see `rstg_jax.layers.linear`.


@in_send
def endpoint_terms(
    first: Dense, node: Float[Array, "*n t b d"], position: Float[Array, "*n 1 1 p"]
) -> tuple[Float[Array, "*n t b d"], Float[Array, "*n t b d"]]:
    """First message layer of one node, as a sender and as a receiver.

    The layer is linear in `[v_j | p_j | v_i | p_i]`. It is the sum of a term of the sender and a
    term of the receiver, each computed once per node instead of once per edge.

    Args:
      first: the layer, `[2(d + p) d]`; the bias is part of the receiver's term.
      node: features.
      position: position map; p may be 0.

    Returns:
      The sender term and the receiver term.
    """
    widths = [node.shape[-1], position.shape[-1]]
    node_j, position_j, node_i, position_i = jnp.split(first.kernel, np.cumsum(widths + widths[:1]))
    both = linear(node, jnp.concatenate([node_j, node_i], axis=1))  # one product for both terms
    sender, receiver = jnp.split(both, 2, axis=-1)
    sender += linear(position, position_j)
    receiver += linear(position, position_i, first.bias)
    return sender, receiver


def message(second: Dense, terms: Float[Array, "*e t b d"]) -> Float[Array, "*e t b d"]:
    """Message along one edge from the sum of the terms of its ends; ReLU after both layers."""
    return nn.relu(linear(nn.relu(terms), *second))


def additive_logits(
    receiver: Float[Array, "t b h"],
    senders: Float[Array, "j t b h"],
    mask: Float[Array, "j #t 1 1"],
    masking: Masking,
) -> Float[Array, "j t b h"]:
    """GAT-like logits of one receiver from its score and those of all senders."""
    if masking == "exclude":
        return nn.leaky_relu(receiver + senders, LEAKY_SLOPE)
    return nn.leaky_relu(mask * receiver + mask * senders, LEAKY_SLOPE) + mask


def dot_logits(
    query: Float[Array, "t b h k"],
    keys: Float[Array, "j t b h k"],
    mask: Float[Array, "j #t 1 1"],
    masking: Masking,
) -> Float[Array, "j t b h"]:
    """Dot-product logits of one receiver from its query and the keys of all senders."""
    logits = jnp.einsum("tbhk,jtbhk->jtbh", query, keys)
    if masking == "exclude":
        return logits * query.shape[-1] ** -0.5
    return logits * mask


def attention_weights(
    receiver: Float[Array, "t b h *k"],
    senders: Float[Array, "j t b h *k"],
    neighbours: Float[Array, "j #t"],
    kind: Attention,
    masking: Masking,
) -> Float[Array, "j t b h"]:
    """Weights of all senders for ONE receiver: a softmax over j.

    Args:
      receiver: score or query.
      senders: scores or keys.
      neighbours: 1 for neighbours and 0 for others, in each frame or in all frames alike.
      kind: "additive" compares scores, "dot" queries and keys.
      masking: "exclude" gives others no weight, and a node without neighbours receives nothing.
        "multiply" (official) multiplies the logits of others by 0, which still gives them weight.
    """
    mask = neighbours[..., None, None]  # [j t 1 1]
    score = additive_logits if kind == "additive" else dot_logits
    logits = widened(score(receiver, senders, mask, masking))
    if masking == "multiply":
        return nn.softmax(logits, axis=0)
    mask = mask.astype(logits.dtype)
    return nn.softmax(jnp.where(mask > 0, logits, MASKED_LOGIT), axis=0) * mask


def update_node(
    layers: tuple[Dense, ...],
    node: Float[Array, "*n t b d"],
    gathered: Float[Array, "*n t b d"],
    last_relu: bool,
) -> Float[Array, "*n t b d"]:
    """New features of one node: an MLP of `[v_i | gathered_i]`.

    Args:
      layers: one or two.
      node: features v_i.
      gathered: messages that the node received.
      last_relu: apply ReLU after the last layer too, as the official code does.
    """
    x = jnp.concatenate([node, gathered], axis=-1)
    for number, layer in enumerate(layers, start=1):
        x = linear(x, *layer)
        x = nn.relu(x) if number < len(layers) or last_relu else x
    return x


# --- all nodes, all edges -------------------------------------------------------------------------


def endpoints(
    weights: AttentionWeights, nodes: Float[Array, "n t b d"], kind: Attention, num_heads: int
) -> tuple[Float[Array, "n t b h *k"], Float[Array, "n t b h *k"]]:
    """Projects nodes for attention, as receivers and as senders.

    Returns:
      Scores without axis k for "additive", queries and keys for "dot".
    """
    heads = (*nodes.shape[:-1], num_heads, -1)
    receivers, senders = (linear(nodes, *layer).reshape(heads) for layer in weights)
    return (receivers[..., 0], senders[..., 0]) if kind == "additive" else (receivers, senders)


@in_gather
def attend(
    weights: AttentionWeights,
    nodes: Float[Array, "n t b d"],
    adjacency: Bool[np.ndarray, "n n"],
    kind: Attention,
    masking: Masking,
    num_heads: int,
) -> Float[Array, "n n t b h"]:
    """Attention of receiver i to sender j in every frame, `[i j t b h]`."""
    receivers, senders = endpoints(weights, nodes, kind, num_heads)
    neighbours = jnp.asarray(adjacency, nodes.dtype)[..., None]  # [i j 1]

    def attend_one(receiver: Array, neighbours: Array) -> Array:
        return attention_weights(receiver, senders, neighbours, kind, masking)

    return jax.vmap(attend_one)(receivers, neighbours)


def edge_attention(attention: Float[Array, "n j t b h"], edges: Edges) -> Float[Array, "e t b h"]:
    """Picks the attention of every edge.

    Sender rows from n on are nodes of neighbouring frames (`rstg_jax.rstg.spacetime`). Such a node
    sends to the same region only, so attention has one column per neighbouring frame.
    """
    n = edges.num_nodes
    columns = np.where(edges.senders < n, edges.senders, n - 1 + edges.senders // n)
    return attention[edges.receivers, columns]


@in_send
def send(second: Dense, terms: Float[Array, "m t b d"], edges: Edges) -> Float[Array, "e t b d"]:
    """Messages along all edges.

    Args:
      second: second layer of the message MLP.
      terms: `endpoint_terms` of all senders, followed by those of the n receivers.
      edges: e edges whose senders are rows of `terms`.
    """
    rows = np.eye(len(terms))
    ends = rows[edges.senders] + rows[edges.receivers - edges.num_nodes]  # [e m]
    return message(second, constant_product(ends, terms))


@in_gather
def gather(
    messages: Float[Array, "e t b d"], attention: Float[Array, "e t b h"], edges: Edges
) -> Float[Array, "hn t b d"]:
    """Sums the messages that each node receives, weighted by the attention of each head.

    Returns:
      Sums of all nodes for the first head, then for the next, `[h*n t b d]`.
    """
    into = np.eye(edges.num_nodes)[:, edges.receivers]  # [n e]
    heads = range(attention.shape[-1])
    return jnp.concatenate(
        [constant_product(into, attention[..., head, None] * messages) for head in heads]
    )


@in_gather
def project_heads(
    project: Dense, gathered: Float[Array, "hn t b d"], num_heads: int
) -> Float[Array, "n t b d"]:
    """Projects the sums of every head to d/h features and joins them.

    The official heads project the messages before they weight them; both are linear, so the order
    does not matter.
    """
    columns = jnp.split(project.kernel, num_heads, axis=1)
    sums = jnp.split(gathered, num_heads)
    projected = [linear(one, part) for one, part in zip(sums, columns, strict=True)]
    return jnp.concatenate(projected, axis=-1) + project.bias


@in_update
def update(
    groups: tuple[tuple[slice, tuple[Dense, ...]], ...],
    nodes: Float[Array, "n t b d"],
    gathered: Float[Array, "n t b d"],
    last_relu: bool,
) -> Float[Array, "n t b d"]:
    """New features of all nodes.

    Args:
      groups: slices of the node axis, each with the layers of its MLP.
      nodes: current features.
      gathered: messages that each node received.
      last_relu: see `update_node`.
    """
    parts = [
        update_node(layers, nodes[where], gathered[where], last_relu) for where, layers in groups
    ]
    return jnp.concatenate(parts) if len(parts) > 1 else parts[0]
