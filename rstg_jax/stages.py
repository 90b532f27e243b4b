"""One stage of the plan over any number of frames: time, or space with its norms and skips."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.graph import RegionGraph
from rstg_jax.homogeneous import SpaceTimeGather, SpaceTimeSend
from rstg_jax.norms import OFFICIAL_LAYER_NORM_EPSILON, BatchNorm, LayerNorm
from rstg_jax.plan import RSTGConfig
from rstg_jax.recurrence import Carry, TimeStage
from rstg_jax.space import Edges, Gather, Send, Update, edges_of


class TimeStep(nn.Module):
    """A time stage of the plan, with its skip connection if configured."""

    config: RSTGConfig

    @nn.compact
    def __call__(self, nodes: jax.Array, carry: Carry | None) -> tuple[jax.Array, Carry]:
        """`[n t b d]` and the state before it (None: zero) -> `[n t b d]`, the state after it."""
        config = self.config
        cell = TimeStage(
            config.dim, config.cell, config.forget_bias, config.two_biases, name=config.cell
        )
        if not config.skip:
            return cell(nodes, carry)
        moved, carry = cell(LayerNorm(name="norm")(nodes), carry)
        return nodes + moved, carry


class SpaceStep(nn.Module):
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
        config = self.config
        edges: Edges = edges_of(self.graph.adjacency, config.masking)
        maps = self.graph.position_maps
        positions = jnp.asarray(maps if config.positions else maps[:, :0])
        x = LayerNorm(name="norm")(nodes) if config.skip else nodes

        attending = (config.attention, config.masking, config.heads)
        kinds = (SpaceTimeSend, SpaceTimeGather) if self.across_frames else (Send, Gather)
        send, gather = kinds[0](name="send"), kinds[1](*attending, name="gather")
        messages = send(x, positions, edges)
        messages = post_norm(config, "message_norm", messages, train, unbiased=True)
        gathered, attention = gather(x, messages, self.graph.adjacency, edges)
        bias = self.param("gather_bias", nn.initializers.zeros, (config.dim,))
        gathered = gathered + bias.astype(gathered.dtype)
        if config.attention == "simple":
            gathered = post_norm(config, "gather_norm", gathered, train, unbiased=False)
        gathered = nn.relu(gathered)

        groups = self.graph.scale_slices if config.update_per_scale else (slice(None),)
        update = Update(groups, config.update_layers, last_relu=not config.skip, name="update")
        updated = update(x, gathered)
        if config.skip:
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
