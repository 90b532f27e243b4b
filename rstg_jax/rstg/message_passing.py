"""Space stages: send, gather and update on the region graph of every frame.

Source: paper section 3.2. The pure functions speak of ONE node (or one edge) in every frame of
every clip, `[t b d]`. Linear layers and elementwise functions map over nodes by their leading axes,
attention by `jax.vmap`. With nodes leading, `[n t b d]`, picking the ends of all edges and summing
over a node's edges are each one product with a constant 0/1 matrix, whose gradient is a product
again (a gather's gradient would be a scatter).
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rstg_jax.layers.linear import constant_product, dense_weights, linear

LEAKY_SLOPE = 0.2
NEVER = -1e30  # a finite logit of no weight: a row of -inf only would give NaN
Attention = Literal["additive", "dot"]
Masking = Literal["exclude", "multiply"]
Weights = tuple[jax.Array, jax.Array]  # kernel and bias of a linear layer


class Edges(NamedTuple):
    """Directed edges `source j -> destination i`, int arrays `[e]`, into `nodes` destinations."""

    source: np.ndarray
    destination: np.ndarray
    nodes: int


def edges_of(adjacency: np.ndarray, masking: Masking) -> Edges:
    """Edges that carry messages: the graph's own, or all ordered pairs.

    Official masking multiplies attention logits instead of excluding nodes, so non-neighbours and
    the node itself still send (method: the softmax runs over every j).
    """
    pairs = adjacency if masking == "exclude" else np.ones_like(adjacency)
    destination, source = np.nonzero(pairs)
    return Edges(source, destination, len(adjacency))


# --- one node, one edge ---------------------------------------------------------------------------


def endpoint_terms(
    kernel: jax.Array, bias: jax.Array, node: jax.Array, position: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """First message layer of one node, as a source and as a destination.

    The layer is linear in `[v_j | p_j | v_i | p_i]`, so it is a term of the source plus a term of
    the destination: computed once a node, not once a pair.

    Args:
      kernel: `[2(d + p) d]`, rows in the order `v_j p_j v_i p_i`.
      bias: `[d]`, counted with the destination.
      node: features `[t b d]`.
      position: position map `[1 1 p]`; p may be 0.

    Returns:
      Source term and destination term, each `[t b d]`.
    """
    widths = [node.shape[-1], position.shape[-1]]
    node_j, position_j, node_i, position_i = jnp.split(kernel, np.cumsum(widths + widths[:1]))
    both = linear(node, jnp.concatenate([node_j, node_i], axis=1))  # one product for both terms
    source, destination = jnp.split(both, 2, axis=-1)
    source += linear(position, position_j)
    destination += linear(position, position_i, bias)
    return source, destination


def message(kernel: jax.Array, bias: jax.Array, terms: jax.Array) -> jax.Array:
    """Message along one edge from the sum of its ends' terms, `[t b d]`; ReLU after both layers."""
    return nn.relu(linear(nn.relu(terms), kernel, bias))


def attention_weights(logits: jax.Array, neighbours: jax.Array, masking: Masking) -> jax.Array:
    """Softmax over the sources of one destination, float32.

    Args:
      logits: `[n t b h]`, one for each source j, frame, clip and head.
      neighbours: row i of the adjacency, `[n]` of 0 and 1.
      masking: `exclude` gives non-neighbours no weight (a node without neighbours receives
        nothing); `multiply` is official: the logits were multiplied by the adjacency already.
    """
    if masking == "multiply":
        return nn.softmax(logits.astype(jnp.float32), axis=0)
    return masked_softmax(logits, neighbours[:, None, None, None])


def masked_softmax(logits: jax.Array, allowed: jax.Array) -> jax.Array:
    """Softmax over the first axis, float32; where nothing is allowed every weight is 0."""
    allowed = allowed.astype(jnp.float32)
    return nn.softmax(jnp.where(allowed > 0, logits.astype(jnp.float32), NEVER), axis=0) * allowed


def additive_logits(
    as_destination: jax.Array, as_sources: jax.Array, neighbours: jax.Array, masking: Masking
) -> jax.Array:
    """GAT-like logits of one destination `[n t b h]`: its score `[t b h]`, all `[n t b h]`."""
    if masking == "exclude":
        return nn.leaky_relu(as_destination + as_sources, LEAKY_SLOPE)
    mask = neighbours[:, None, None, None]
    return nn.leaky_relu(mask * as_destination + mask * as_sources, LEAKY_SLOPE) + mask


def dot_logits(
    query: jax.Array, keys: jax.Array, neighbours: jax.Array, masking: Masking
) -> jax.Array:
    """Dot-product logits of one destination `[n t b h]`: `[t b h k]` with all `[n t b h k]`."""
    logits = jnp.einsum("tbhk,ntbhk->ntbh", query, keys)
    if masking == "exclude":
        return logits * query.shape[-1] ** -0.5
    return logits * neighbours[:, None, None, None]


def update(layers: tuple, node: jax.Array, gathered: jax.Array, last_relu: bool) -> jax.Array:
    """New features of one node from `[v_i | gathered_i]`, `[t b d]`."""
    x = jnp.concatenate([node, gathered], axis=-1)
    for number, (kernel, bias) in enumerate(layers, start=1):
        x = linear(x, kernel, bias)
        x = nn.relu(x) if number < len(layers) or last_relu else x
    return x


# --- all edges ------------------------------------------------------------------------------------


def edge_terms(terms: jax.Array, edges: Edges) -> jax.Array:
    """First message layer of every edge before its ReLU: its source's and its destination's term.

    Args:
      terms: of everything that sends, then of the destinations, `[m t b d]`.
      edges: their sources are rows of `terms`.

    Returns:
      `[e t b d]`.
    """
    rows = np.eye(len(terms))
    return constant_product(rows[edges.source] + rows[edges.destination - edges.nodes], terms)


def weighted_sum(messages: jax.Array, weights: jax.Array, edges: Edges) -> jax.Array:
    """Sums `[e t b d]` messages into their destinations, for every head of the weights `[e t b h]`.

    Returns:
      `[h*n t b d]`.
    """
    into = np.eye(edges.nodes)[:, edges.destination]  # [n e]
    heads = range(weights.shape[-1])
    return jnp.concatenate(
        [constant_product(into, weights[..., head, None] * messages) for head in heads]
    )


def join_heads(gathered: jax.Array, num_heads: int, projection: Weights | None) -> jax.Array:
    """What heads gathered, `[h*n t b d]` -> `[n t b d]`.

    Official heads project the messages first; a weighted mean commutes with that projection.
    """
    if projection is None:
        return gathered
    kernel, bias = projection
    columns = jnp.split(kernel, num_heads, axis=1)
    totals = jnp.split(gathered, num_heads)
    projected = [linear(total, part) for total, part in zip(totals, columns, strict=True)]
    return jnp.concatenate(projected, axis=-1) + bias


# --- weights and mapping --------------------------------------------------------------------------


class Send(nn.Module):
    """First layer of the messages, for both ends of any edge; hands out the second."""

    @nn.compact
    def __call__(self, nodes: jax.Array, positions: jax.Array) -> tuple[jax.Array, Weights]:
        """Terms of the ends of edges, and weights of the second layer.

        Args:
          nodes: `[n t b d]`.
          positions: position maps `[n p]`.

        Returns:
          Terms of all sources, then of all destinations, `[m t b d]`: an edge's first layer is the
          sum of two rows; and kernel and bias for `message`.
        """
        dim, rows = nodes.shape[-1], 2 * (nodes.shape[-1] + positions.shape[-1])
        first = dense_weights(self, "first", (rows, dim), nodes.dtype)
        second = dense_weights(self, "second", (dim, dim), nodes.dtype)
        maps = positions.astype(nodes.dtype)[:, None, None]
        source, destination = endpoint_terms(*first, nodes, maps)
        return jnp.concatenate([self._sources(source), destination]), second

    def _sources(self, source: jax.Array) -> jax.Array:
        """Everything that sends, from the terms of all nodes."""
        return source


class Gather(nn.Module):
    """Attention over the incoming messages of every node; hands out what follows the sum."""

    kind: Attention
    masking: Masking
    num_heads: int = 1

    @nn.compact
    def __call__(
        self, nodes: jax.Array, adjacency: np.ndarray, edges: Edges
    ) -> tuple[jax.Array, jax.Array, Weights | None]:
        """Compares nodes.

        Args:
          nodes: `[n t b d]`.
          adjacency: `[n n]`, row = destination.
          edges: the edges that carry messages.

        Returns:
          Attention float32 `[i j t b h]`, the weight of every edge `[e t b h]`, and kernel and bias
          for `join_heads`.
        """
        ends = self._endpoints(nodes)
        neighbours = jnp.asarray(adjacency, nodes.dtype)
        score = additive_logits if self.kind == "additive" else dot_logits

        def attend(one: jax.Array, everyone: jax.Array, row: jax.Array) -> jax.Array:
            logits = score(one, everyone, row, self.masking)
            return attention_weights(logits, row, self.masking)

        attention = jax.vmap(attend, in_axes=(0, None, 0))(*ends, neighbours)
        weights = attention[edges.destination, edges.source].astype(nodes.dtype)
        return attention, weights, self._projection(nodes)

    def _endpoints(self, nodes: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What attention compares: scores `[n t b h]` (additive), queries, keys `[n t b h k]`."""
        dim = nodes.shape[-1]
        width = 1 if self.kind == "additive" else dim
        ends = []
        for name in ("destination", "source"):
            kernel, bias = dense_weights(self, name, (dim, width), nodes.dtype)
            end = linear(nodes, kernel, bias)
            ends.append(end.reshape(*nodes.shape[:-1], self.num_heads, -1))
        if self.kind == "additive":
            ends = [end[..., 0] for end in ends]
        return ends[0], ends[1]

    def _projection(self, nodes: jax.Array) -> Weights | None:
        """Several heads project the messages."""
        dim = nodes.shape[-1]
        return (
            dense_weights(self, "project", (dim, dim), nodes.dtype) if self.num_heads > 1 else None
        )


class Update(nn.Module):
    """New node features; one MLP for all nodes, or one for each scale.

    Attributes:
      groups: slices of the node axis that have weights of their own.
      num_layers: 1 or 2.
      last_relu: ReLU after the last layer too (official; without it where a skip adds the result).
    """

    groups: tuple[slice, ...]
    num_layers: int = 2
    last_relu: bool = True

    @nn.compact
    def __call__(self, nodes: jax.Array, gathered: jax.Array) -> jax.Array:
        """Nodes and gathered messages, each `[n t b d]` -> `[n t b d]`."""
        dim = nodes.shape[-1]
        parts = []
        for group, where in enumerate(self.groups):
            prefix = f"group{group}_" if len(self.groups) > 1 else ""
            shapes = [(2 * dim, dim)] + [(dim, dim)] * (self.num_layers - 1)
            layers = tuple(
                dense_weights(self, f"{prefix}{name}", shape, nodes.dtype)
                for name, shape in zip(("first", "second"), shapes, strict=False)
            )
            parts.append(update(layers, nodes[where], gathered[where], self.last_relu))
        return jnp.concatenate(parts) if len(parts) > 1 else parts[0]
