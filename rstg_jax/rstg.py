"""The recurrent space-time graph block: features of any backbone in, graph nodes out.

Source: paper section 3 and Algorithm 1. The block is usable alone:

    nodes, attention = block.apply(variables, features)      # [b t h w c] -> [b t n d]

Stages run one after the other over ALL frames: stage k at frame t needs stage k at t-1 and stage
k-1 at t only, so this gives the numbers of the paper's frame-by-frame loop with the largest
possible matrix products.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rstg_jax.errors import UserError
from rstg_jax.graph import RegionGraph
from rstg_jax.homogeneous import SpaceTimeGather, SpaceTimeSend
from rstg_jax.norms import OFFICIAL_LAYER_NORM_EPSILON, BatchNorm, LayerNorm
from rstg_jax.recurrence import Cell, TimeStage
from rstg_jax.space import Attention, Edges, Gather, Masking, Send, Update, edges_of

Stage = Literal["time", "space", "spacetime"]
STAGES = ("time", "space", "spacetime")
OF_NEIGHBOURS = ("exclude", "none")  # masking and norm that know of neighbours only


def stage_plan(iterations: int) -> tuple[Stage, ...]:
    """The paper's plan for K iterations: K times (time, space), then one last time stage."""
    if iterations < 1:
        raise UserError(f"K = {iterations} iterations: the block needs at least 1")
    return ("time", "space") * iterations + ("time",)


@dataclasses.dataclass(frozen=True)
class RSTGConfig:
    """Every choice of the block; `rstg_jax.presets` has the official and the modern combination.

    Attributes:
      dim: node features d. Pooled features of another width are projected to it.
      scales: grids of regions, see `RegionGraph`.
      stages: the plan, any sequence of "time", "space" and "spacetime" (a space stage whose
        messages also come from the same region in the frames before and after, see
        `rstg_jax.homogeneous`). Stages of one kind share weights, but a time stage at the very end
        has its own. See `stage_plan`.
      attention: "simple" (GAT-like) or "dot".
      heads: attention heads ("dot" only); must divide `dim`.
      masking: "exclude" non-neighbours, or "multiply" the logits by the adjacency (official).
      positions: give the messages the position maps of both ends.
      update_layers: layers of the update MLP, 1 or 2.
      update_per_scale: separate update weights for each scale.
      input_batch_norm: batch norm of the nodes before the graph (official SyncMNIST setting).
      post_norm: norm before the graph and after messages, gather ("simple" only) and update, with
        statistics shared by all nodes of a frame (official settings "none", "layer", "batch").
      skip: pre-norm skip connections around time stage and update, norms per token; the published
        block has none.
      cell: recurrent cell of the time stages, "lstm" or "gru".
      forget_bias: initial bias of the gate that keeps the cell's state.
      two_biases: the LSTMs' bias as the sum of two trained vectors, as in cuDNN (official).
    """

    dim: int = 64
    scales: tuple[int, ...] = (3, 2, 1)
    stages: tuple[str, ...] = ("time", "space") * 3 + ("time",)
    attention: Attention = "dot"
    heads: int = 1
    masking: Masking = "exclude"
    positions: bool = True
    update_layers: int = 2
    update_per_scale: bool = False
    input_batch_norm: bool = False
    post_norm: Literal["none", "layer", "batch"] = "none"
    skip: bool = True
    cell: Cell = "lstm"
    forget_bias: float = 1.0
    two_biases: bool = False

    def __post_init__(self) -> None:
        unknown = [stage for stage in self.stages if stage not in STAGES]
        undivided = self.heads < 1 or self.dim % self.heads != 0
        complaints = [
            (self.dim < 1, f"dim {self.dim} must be at least 1"),
            (not self.stages, f"stages is empty: give at least one of {', '.join(STAGES)}"),
            (bool(unknown), f"unknown stage {unknown[:1]} in stages; use {', '.join(STAGES)}"),
            (undivided, f"heads {self.heads} does not divide dim {self.dim}"),
            (self.heads > 1 and self.attention == "simple", "several heads need attention 'dot'"),
            (self.update_layers not in (1, 2), f"update_layers {self.update_layers} is not 1 or 2"),
            (
                self.skip and self.post_norm != "none",
                "skip has its own norms: set post_norm 'none'",
            ),
            (
                "spacetime" in self.stages and (self.masking, self.post_norm) != OF_NEIGHBOURS,
                "the stage 'spacetime' needs masking 'exclude' and post_norm 'none'",
            ),
            (self.cell == "gru" and self.two_biases, "two_biases are those of the cell 'lstm'"),
        ]
        for wrong, sentence in complaints:
            if wrong:
                raise UserError(f"RSTG configuration: {sentence}")
        RegionGraph(self.scales)  # checks the scales


class RSTGOutput(NamedTuple):
    """What the block returns.

    Attributes:
      nodes: features of every region in every frame, `[b t n d]`.
      attention: weights of source j for destination i in every space stage, mean over heads,
        float32 `[k b t i j]`; `None` without space stages.
    """

    nodes: jax.Array
    attention: jax.Array | None


class RSTG(nn.Module):
    """Recurrent space-time graph over a feature volume.

    Attributes:
      config: the block's choices.
      restore: project the nodes back to the width of the features if it differs from `dim`.
    """

    config: RSTGConfig
    restore: bool = False

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool = False) -> RSTGOutput:
        """Runs the stage plan.

        Args:
          features: backbone features `[b t h w c]`, any height and width.
          train: batch norm uses and updates statistics of the batch.
        """
        config, channels = self.config, features.shape[-1]
        graph = RegionGraph(config.scales, (features.shape[2], features.shape[3]))
        # [b t h w c] -> [n t b c]: see rstg_jax.space for the layout
        nodes = jnp.einsum("nhw,bthwc->ntbc", graph.pool.astype(features.dtype), features)
        if channels != config.dim:
            nodes = nn.Dense(config.dim, dtype=nodes.dtype, name="project_in")(nodes)
        nodes = self._normalise_input(nodes, train)

        # Linen declares no weights for a stage that the plan never calls.
        time, last_time = TimeStep(config, name="time"), TimeStep(config, name="last_time")
        space = SpaceStep(config, graph, name="space")
        spacetime = SpaceStep(config, graph, across_frames=True, name="spacetime")
        attention = []
        for number, stage in enumerate(config.stages, start=1):
            if stage != "time":
                nodes, weights = (space if stage == "space" else spacetime)(nodes, train=train)
                attention.append(weights)
            else:
                nodes = (last_time if number == len(config.stages) else time)(nodes)

        if config.skip:
            nodes = LayerNorm(name="output_norm")(nodes)
        if self.restore and channels != config.dim:
            nodes = nn.Dense(channels, dtype=nodes.dtype, name="project_out")(nodes)
        return RSTGOutput(
            jnp.einsum("ntbd->btnd", nodes),
            jnp.einsum("kijtbh->kbtij", jnp.stack(attention)) / config.heads if attention else None,
        )

    def _normalise_input(self, nodes: jax.Array, train: bool) -> jax.Array:
        """Norms before the graph; the official layer norm mixes all frames of a clip."""
        if self.config.input_batch_norm:
            nodes = BatchNorm((0, 1, 2), unbiased=True, name="input_norm")(nodes, train=train)
        return post_norm(
            self.config, "graph_norm", nodes, train, unbiased=True, frames_together=True
        )


class TimeStep(nn.Module):
    """A time stage of the plan, with its skip connection if configured."""

    config: RSTGConfig

    @nn.compact
    def __call__(self, nodes: jax.Array) -> jax.Array:
        """`[n t b d]` -> `[n t b d]`."""
        config = self.config
        cell = TimeStage(
            config.dim, config.cell, config.forget_bias, config.two_biases, name=config.cell
        )
        if not config.skip:
            return cell(nodes)
        return nodes + cell(LayerNorm(name="norm")(nodes))


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
    def __call__(self, nodes: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
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


def to_vec(nodes: jax.Array) -> jax.Array:
    """Video vector, `[b t n d]` -> `[b d]`: mean over frames, sum over nodes (released code)."""
    return nodes.mean(axis=1).sum(axis=1)


def to_map(nodes: jax.Array, scales: tuple[int, ...], map_size: tuple[int, int]) -> jax.Array:
    """Nodes back on the map: area-resized scales, summed; `[b t n d]` -> `[b t h w d]`."""
    unpool: np.ndarray = RegionGraph(scales, map_size).unpool
    return jnp.einsum("hwn,btnd->bthwd", unpool.astype(nodes.dtype), nodes)
