"""The stages of a plan as modules: each maps the nodes of any number of frames to new nodes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.layers.array_types import Array, Float
from rstg_jax.layers.linear import Dense, DenseGroup
from rstg_jax.layers.norms import OFFICIAL_LAYER_NORM_EPSILON, BatchNorm, LayerNorm
from rstg_jax.rstg import message_passing, spacetime
from rstg_jax.rstg.config import RSTGConfig, Stage
from rstg_jax.rstg.frame_chunks import RECOMPUTED_BELOW, frames_at_once, map_frames
from rstg_jax.rstg.message_passing import (
    AttentionWeights,
    Edges,
    SendWeights,
    edge_attention,
    edges_of,
    endpoint_terms,
    gather,
    project_heads,
    send,
    update,
)
from rstg_jax.rstg.recurrent_cells import Carry, FrameRNN
from rstg_jax.rstg.region_graph import Graph

State = tuple[Carry, ...]  # one carry per time stage of the plan, arrays [n b ...]


def time_cell(config: RSTGConfig, **fields: Any) -> FrameRNN:
    """The recurrent cell of the time stages of a block, with these fields of a Flax module."""
    return FrameRNN(
        config.dim,
        config.cell,
        config.forget_bias,
        config.two_biases,
        config.memory_span,
        config.differences,
        config.lags,
        **fields,
    )


def zero_carry(config: RSTGConfig, like: Float[Array, "*batch d"]) -> Carry:
    """The carry of a time stage before the first frame, on the devices where `like` lies."""
    return time_cell(config, parent=None).zero_carry(like)


class TimeStage(nn.Module):
    """A recurrent cell over the frames of every node, with skip connection if configured."""

    config: RSTGConfig

    @nn.compact
    def __call__(
        self, nodes: Float[Array, "n t *batch d"], carry: Carry | None
    ) -> tuple[Float[Array, "n t *batch d"], Carry]:
        """Returns new nodes and the carry after the last frame.

        Args:
          nodes: inputs of all frames, of clips or of any other axes between frame and feature.
          carry: before the first frame; None is zero.
        """
        config = self.config
        cell = time_cell(config, name=config.cell)
        if not config.residual:
            return cell(nodes, carry)
        inputs = LayerNorm(name="norm")(nodes) if config.time_norm else nodes
        outputs, carry = cell(inputs, carry)
        return nodes + outputs, carry


class SpaceWeights(NamedTuple):
    """Weights of a space stage.

    Attributes:
      send: of the message MLP.
      attention: of scores, or of queries and keys.
      project: of the heads, if there are several.
      gather_bias: added to the gathered messages, `[d]`.
      update: slices of the node axis, each with the layers of its update MLP.
    """

    send: SendWeights
    attention: AttentionWeights
    project: Dense | None
    gather_bias: Array
    update: tuple[tuple[slice, tuple[Dense, ...]], ...]


class SpaceStage(nn.Module):
    """Send, gather and update on the graph of every frame, with skip connection or norms.

    Attributes:
      config: of the block.
      graph: the nodes.
      across_frames: each region also sends messages to itself in the frames before and after.
    """

    config: RSTGConfig
    graph: Graph
    across_frames: bool = False

    @nn.compact
    def __call__(
        self, nodes: Float[Array, "n t b d"], train: bool
    ) -> tuple[Float[Array, "n t b d"], Float[Array, "n n t b h"]]:
        """Returns new nodes, and the attention `[i j t b h]` of receiver i to sender j."""
        config = self.config
        w = self._weights(nodes.dtype)
        x = LayerNorm(name="norm")(nodes) if config.residual else nodes

        edges = edges_of(self.graph.adjacency, config.masking)
        senders, receivers = endpoint_terms(w.send.first, x, self._positions(x.dtype))
        if self.across_frames:
            edges = spacetime.add_frame_edges(edges)
            senders = spacetime.with_neighbouring_frames(senders)
        attention = self._attend(w.attention, x)  # [i j t b h]

        def send_and_gather(terms: Array, attention: Array) -> Array:
            messages = send(w.send.second, terms, edges)  # [e t b d]
            messages = post_norm(config, "message_norm", messages, train, unbiased=True)
            return gather(messages, attention, edges)  # [h*n t b d]

        gathered = self._map_frames(
            send_and_gather,
            jnp.concatenate([senders, receivers]),
            edge_attention(attention, edges).astype(x.dtype),
            edges=edges,
        )
        if w.project is not None:
            gathered = project_heads(w.project, gathered, config.num_heads)
        gathered = gathered + w.gather_bias  # [n t b d]
        if config.attention == "additive":
            gathered = post_norm(config, "gather_norm", gathered, train, unbiased=False)

        updated = update(w.update, x, nn.relu(gathered), last_relu=not config.residual)
        if config.residual:
            updated = nodes + updated
        else:
            updated = post_norm(config, "update_norm", updated, train, unbiased=False)
        return updated, attention[:, : self.graph.num_nodes]

    def _weights(self, dtype: Any) -> SpaceWeights:
        """Declares all weights but those of the norms."""
        config, d = self.config, self.config.dim
        ends = 2 * (d + self._positions(dtype).shape[-1])
        send = DenseGroup({"first": (ends, d), "second": (d, d)}, name="send")(dtype)

        width = 1 if config.attention == "additive" else d
        shapes = {"destination": (d, width), "source": (d, width)}
        if config.num_heads > 1:
            shapes["project"] = (d, d)
        gather = DenseGroup(shapes, name="gather")(dtype)
        gather_bias = self.param("gather_bias", nn.initializers.zeros, (d,), jnp.float32)

        slices = self.graph.scale_slices if config.update_per_scale else (slice(None),)
        layers = {"first": (2 * d, d), "second": (d, d)}
        names = list(layers)[: config.update_layers]
        prefixes = [f"group{k}_" if len(slices) > 1 else "" for k in range(len(slices))]
        update = DenseGroup(
            {prefix + name: layers[name] for prefix in prefixes for name in names}, name="update"
        )(dtype)
        return SpaceWeights(
            SendWeights(**send),
            AttentionWeights(receiver=gather["destination"], sender=gather["source"]),
            gather.get("project"),
            gather_bias.astype(dtype),
            tuple(
                (where, tuple(update[prefix + name] for name in names))
                for where, prefix in zip(slices, prefixes, strict=True)
            ),
        )

    def _positions(self, dtype: Any) -> Array:
        """Position maps `[n 1 1 p]`; p is 0 without positions."""
        maps = self.graph.position_maps
        return jnp.asarray(maps if self.config.positions else maps[:, :0], dtype)[:, None, None]

    def _attend(self, weights: AttentionWeights, x: Array) -> Array:
        """Attention of all nodes, `[i j t b h]`."""
        config, adjacency = self.config, self.graph.adjacency
        if self.across_frames:
            return spacetime.attend_across_frames(
                weights, x, adjacency, config.attention, config.num_heads
            )
        return message_passing.attend(
            weights, x, adjacency, config.attention, config.masking, config.num_heads
        )

    def _map_frames(self, function: Any, *arrays: Array, edges: Edges) -> Array:
        """Maps `function` over a few frames at a time, and stores or recomputes what is inside."""
        config, (_, frames, b, d) = self.config, arrays[0].shape
        count = frames
        if config.post_norm == "none":  # the norms declare their weights where they are applied
            frame_bytes = len(edges.senders) * b * d * arrays[0].dtype.itemsize
            count = frames_at_once(config.message_frames, frames, frame_bytes)
        if "messages" in config.remat or (count < frames and d < RECOMPUTED_BELOW):
            function = jax.checkpoint(function)
        return map_frames(function, count, *arrays)


def make_stage(
    kind: Stage, config: RSTGConfig, graph: Graph, **module: Any
) -> TimeStage | SpaceStage:
    """Returns the module of a stage, rematerialized if `config.remat` names its kind.

    Args:
      kind: of the stage.
      config: of the block.
      graph: the nodes.
      **module: `name` or `parent` of the Linen module.
    """
    if kind == "time":
        time = nn.remat(TimeStage) if kind in config.remat else TimeStage
        return time(config, **module)
    space = nn.remat(SpaceStage, static_argnums=(2,)) if kind in config.remat else SpaceStage
    return space(config, graph, kind == "spacetime", **module)


def post_norm(
    config: RSTGConfig,
    name: str,
    x: Float[Array, "m t b d"],
    train: bool,
    *,
    unbiased: bool,
    frames_together: bool = False,
) -> Float[Array, "m t b d"]:
    """Applies the official norm at one place of the block, on nodes or messages.

    Args:
      config: of the block; `config.post_norm` chooses the norm.
      name: of its weights.
      x: what to normalise.
      train: batch norm uses and updates statistics of the batch.
      unbiased: see `BatchNorm`.
      frames_together: frames share statistics.
    """
    frames = (1,) if frames_together else ()
    if config.post_norm == "layer":
        return LayerNorm((0, *frames, 3), OFFICIAL_LAYER_NORM_EPSILON, name=name)(x)
    if config.post_norm == "batch":
        return BatchNorm((0, *frames, 2), unbiased=unbiased, name=name)(x, train=train)
    return x
