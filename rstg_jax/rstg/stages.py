"""One stage of the plan over any number of frames: time, or space with its norms and skips."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.layers.norms import OFFICIAL_LAYER_NORM_EPSILON, BatchNorm, LayerNorm
from rstg_jax.rstg.config import RSTGConfig
from rstg_jax.rstg.frame_chunks import RECOMPUTED_BELOW, frames_at_once, in_chunks
from rstg_jax.rstg.message_passing import (
    Gather,
    Send,
    Update,
    edge_terms,
    edges_of,
    join_heads,
    message,
    weighted_sum,
)
from rstg_jax.rstg.recurrent_cells import Carry, FrameRNN
from rstg_jax.rstg.region_graph import RegionGraph
from rstg_jax.rstg.spacetime import SpaceTimeGather, SpaceTimeSend, across_frames


class TimeStage(nn.Module):
    """A time stage of the plan, with its skip connection if configured."""

    config: RSTGConfig

    @nn.compact
    def __call__(self, nodes: jax.Array, carry: Carry | None) -> tuple[jax.Array, Carry]:
        """`[n t b d]` and the state before it (None: zero) -> `[n t b d]`, the state after it."""
        config = self.config
        cell = FrameRNN(
            config.dim, config.cell, config.forget_bias, config.two_biases, name=config.cell
        )
        if not config.residual:
            return cell(nodes, carry)
        moved, carry = cell(LayerNorm(name="norm")(nodes), carry)
        return nodes + moved, carry


class SpaceStage(nn.Module):
    """A space stage of the plan: send, gather, update, with skip connection or norms.

    Attributes:
      config: the block's choices.
      graph: the regions.
      across_frames: messages also come from the frames before and after.
    """

    config: RSTGConfig
    graph: RegionGraph
    across_frames: bool = False

    @nn.compact
    def __call__(self, nodes: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """`[n t b d]` -> `[n t b d]` and the attention `[i j t b h]`."""
        config, (_, frames, b, d) = self.config, nodes.shape
        edges = edges_of(self.graph.adjacency, config.masking)
        edges = across_frames(edges) if self.across_frames else edges
        maps = self.graph.position_maps
        positions = jnp.asarray(maps if config.positions else maps[:, :0])
        x = LayerNorm(name="norm")(nodes) if config.residual else nodes

        attending = (config.attention, config.masking, config.num_heads)
        kinds = (SpaceTimeSend, SpaceTimeGather) if self.across_frames else (Send, Gather)
        send, gather = kinds[0](name="send"), kinds[1](*attending, name="gather")
        terms, second = send(x, positions)
        attention, weights, projection = gather(x, self.graph.adjacency, edges)

        def receive(terms: jax.Array, weights: jax.Array) -> jax.Array:
            messages = message(*second, edge_terms(terms, edges))
            messages = post_norm(config, "message_norm", messages, train, unbiased=True)
            return weighted_sum(messages, weights, edges)

        chunk = frames
        if config.post_norm == "none":  # the norms' weights are declared where they are applied
            frame_bytes = len(edges.source) * b * d * nodes.dtype.itemsize
            chunk = frames_at_once(config.message_frames, frames, frame_bytes)
        if "messages" in config.remat or (chunk < frames and d < RECOMPUTED_BELOW):
            receive = jax.checkpoint(receive)
        gathered = in_chunks(receive, chunk, terms, weights)
        gathered = join_heads(gathered, config.num_heads, projection)
        bias = self.param("gather_bias", nn.initializers.zeros, (config.dim,))
        gathered = gathered + bias.astype(gathered.dtype)
        if config.attention == "additive":
            gathered = post_norm(config, "gather_norm", gathered, train, unbiased=False)
        gathered = nn.relu(gathered)

        groups = self.graph.scale_slices if config.update_per_scale else (slice(None),)
        update = Update(groups, config.update_layers, last_relu=not config.residual, name="update")
        updated = update(x, gathered)
        if config.residual:
            return nodes + updated, attention
        return post_norm(config, "update_norm", updated, train, unbiased=False), attention


def post_norm(
    config: RSTGConfig,
    name: str,
    x: jax.Array,
    train: bool,
    *,
    unbiased: bool,
    frames_together: bool = False,
) -> jax.Array:
    """The official norm at one place of the block, on `[n t b d]` or messages `[e t b d]`."""
    frames = (1,) if frames_together else ()
    if config.post_norm == "layer":
        return LayerNorm((0, *frames, 3), OFFICIAL_LAYER_NORM_EPSILON, name=name)(x)
    if config.post_norm == "batch":
        return BatchNorm((0, *frames, 2), unbiased=unbiased, name=name)(x, train=train)
    return x
