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

from rstg_jax.linear import constant_product, dense_weights, linear

LEAKY_SLOPE = 0.2
NEVER = -1e30  # a finite logit of no weight: a row of -inf only would give NaN
Attention = Literal["simple", "dot"]
Masking = Literal["exclude", "multiply"]


class Edges(NamedTuple):
    """Directed edges `source j -> destination i`, int arrays `[e]`, sorted by destination."""

    source: np.ndarray
    destination: np.ndarray


def edges_of(adjacency: np.ndarray, masking: Masking) -> Edges:
    """Edges that carry messages: the graph's own, or all ordered pairs.

    Official masking multiplies attention logits instead of excluding nodes, so non-neighbours and
    the node itself still send (method: the softmax runs over every j).
    """
    pairs = adjacency if masking == "exclude" else np.ones_like(adjacency)
    destination, source = np.nonzero(pairs)
    return Edges(source, destination)


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


def simple_logits(
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


# --- weights and mapping --------------------------------------------------------------------------


class Send(nn.Module):
    """Messages along all edges: two-layer MLP of both ends and their position maps."""

    @nn.compact
    def __call__(self, nodes: jax.Array, positions: jax.Array, edges: Edges) -> jax.Array:
        """Nodes `[n t b d]`, position maps `[n p]` -> messages `[e t b d]`."""
        dim, rows = nodes.shape[-1], 2 * (nodes.shape[-1] + positions.shape[-1])
        first = dense_weights(self, "first", (rows, dim), nodes.dtype)
        second = dense_weights(self, "second", (dim, dim), nodes.dtype)
        maps = positions.astype(nodes.dtype)[:, None, None]
        terms = endpoint_terms(*first, nodes, maps)
        return message(*second, self._pairs(*terms, edges))

    def _pairs(self, source: jax.Array, destination: jax.Array, edges: Edges) -> jax.Array:
        """Sums of both ends' terms, `[e t b d]`."""
        ends = np.eye(len(source))
        ends = np.concatenate([ends[edges.source], ends[edges.destination]], axis=1)  # [e 2n]
        return constant_product(ends, jnp.concatenate([source, destination]))


class Gather(nn.Module):
    """Attention over the incoming messages of every node."""

    kind: Attention
    masking: Masking
    heads: int = 1

    @nn.compact
    def __call__(
        self, nodes: jax.Array, messages: jax.Array, adjacency: np.ndarray, edges: Edges
    ) -> tuple[jax.Array, jax.Array]:
        """Weights the messages.

        Args:
          nodes: `[n t b d]`.
          messages: `[e t b d]`.
          adjacency: `[n n]`, row = destination.
          edges: endpoints of the messages.

        Returns:
          Gathered messages before bias and ReLU `[n t b d]`, and attention float32 `[i j t b h]`.
        """
        ends = self._endpoints(nodes)
        neighbours = jnp.asarray(adjacency, nodes.dtype)
        score = simple_logits if self.kind == "simple" else dot_logits

        def attend(one: jax.Array, everyone: jax.Array, row: jax.Array) -> jax.Array:
            logits = score(one, everyone, row, self.masking)
            return attention_weights(logits, row, self.masking)

        attention = jax.vmap(attend, in_axes=(0, None, 0))(*ends, neighbours)
        gathered = self._weighted_sum(messages, attention, edges)
        return gathered, attention

    def _endpoints(self, nodes: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What attention compares: scores `[n t b h]` (simple), queries and keys `[n t b h k]`."""
        dim = nodes.shape[-1]
        width = 1 if self.kind == "simple" else dim
        ends = []
        for name in ("destination", "source"):
            kernel, bias = dense_weights(self, name, (dim, width), nodes.dtype)
            end = linear(nodes, kernel, bias)
            ends.append(end.reshape(*nodes.shape[:-1], self.heads, -1))
        if self.kind == "simple":
            ends = [end[..., 0] for end in ends]
        return ends[0], ends[1]

    def _weighted_sum(self, messages: jax.Array, attention: jax.Array, edges: Edges) -> jax.Array:
        """Sums weighted messages into their destinations, `[n t b d]`."""
        num_nodes, heads = len(attention), attention.shape[-1]
        weights = attention[edges.destination, edges.source].astype(messages.dtype)  # [e t b h]
        incidence = np.eye(num_nodes)[:, edges.destination]  # [n e]
        summed = [
            constant_product(incidence, weights[..., head, None] * messages)
            for head in range(heads)
        ]
        if heads == 1:
            return summed[0]
        # Official heads project the messages first; a weighted mean commutes with that projection.
        dim = messages.shape[-1]
        kernel, bias = dense_weights(self, "project", (dim, dim), messages.dtype)
        columns = jnp.split(kernel, heads, axis=1)
        projected = [linear(total, part) for total, part in zip(summed, columns, strict=True)]
        return jnp.concatenate(projected, axis=-1) + bias


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
