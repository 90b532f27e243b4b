"""The recurrent space-time graph block: features of any backbone in, graph nodes out.

Source: paper section 3 and Algorithm 1. The block can be used alone:

    nodes, attention = block.apply(variables, features)      # [b t h w c] -> [b t n d]

on objects in place of regions (`RSTGConfig.objects`; not in the paper), from a vector of each,

    nodes, attention = block.apply(variables, objects)       # [b t n c] -> [b t n d]

or frame by frame, or chunk by chunk, in constant memory and time per frame:

    state = init_state(config, batch)
    (nodes, attention), state = block.apply(variables, chunk, state, method="stream")
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.errors import UserError
from rstg_jax.layers.array_types import Array, Float
from rstg_jax.layers.linear import pool_frames
from rstg_jax.layers.norms import BatchNorm, LayerNorm
from rstg_jax.rstg import schedules
from rstg_jax.rstg.config import RSTGConfig
from rstg_jax.rstg.recurrent_cells import carry_dtype
from rstg_jax.rstg.region_graph import Graph, ObjectGraph, RegionGraph
from rstg_jax.rstg.stages import State, post_norm, zero_carry

__all__ = ["RSTG", "RSTGConfig", "RSTGOutput", "State", "init_state", "to_map", "to_vec"]


class RSTGOutput(NamedTuple):
    """Output of the block.

    Attributes:
      nodes: features of every region or object in every frame, `[b t n d]`.
      attention: of receiver i to sender j in every space stage, mean over heads, float32
        `[k b t i j]`; `None` without space stages.
    """

    nodes: Array
    attention: Array | None


def region_means(
    features: Float[Array, "b t h w c"], graph: RegionGraph
) -> Float[Array, "n t b c"]:
    """The mean of each region, as in the paper."""
    b, t, h, w, channels = features.shape
    pixels = features.reshape(b, t, h * w, channels)
    means = pool_frames(graph.pool.reshape(-1, h * w), pixels)  # [n b t c]
    return jnp.swapaxes(means, 1, 2)


Pool = Callable[[Array, RegionGraph], Array]  # as `region_means`; may return other channels


class RSTG(nn.Module):
    """Recurrent space-time graph over a feature volume.

    Attributes:
      config: see `RSTGConfig`.
      project_back: project the nodes back to the width of the features if it differs from `dim`.
      pool: makes one vector of every region, `[n t b c]` with any c, before it is projected to
        `dim`. Objects have theirs already.
    """

    config: RSTGConfig
    project_back: bool = False
    pool: Pool = region_means

    def __call__(self, features: Float[Array, "b t *hw c"], *, train: bool = False) -> RSTGOutput:
        """Runs the block on whole clips.

        Args:
          features: of a backbone, floating point, `[b t h w c]` with any height and width; or of
            `RSTGConfig.objects`, `[b t n c]`.
          train: batch norm uses and updates statistics of the batch.

        Raises:
          UserError: the features have other axes, are integers or empty, or of other objects; or
            `pool` returned something else than it should.
        """
        output, _, _ = self._encode_process_decode(features, None, train)
        return output

    def with_early_nodes(
        self, features: Float[Array, "b t *hw c"], *, train: bool = False
    ) -> tuple[RSTGOutput, Float[Array, "b t n d"]]:
        """Also returns what each region knows of its own past, before it compares with others.

        Args:
          features: as of `__call__`.
          train: likewise.

        Returns:
          The output, and the nodes after the first stage that connects frames.

        Raises:
          UserError: all stages of the plan are space stages.
        """
        output, _, early = self._encode_process_decode(features, None, train)
        if early is None:
            raise UserError(
                f"stages {self.config.stages} connect no frames: there is no early node"
            )
        return output, early

    def stream(self, features: Float[Array, "b t *hw c"], state: State) -> tuple[RSTGOutput, State]:
        """Continues videos with their next frames.

        Args:
          features: of the next frames; t may be 1.
          state: from `init_state`, or after the frames before. It takes the type of the features;
            that of linear recurrences is float32 also for features in bfloat16.

        Returns:
          The same output for these frames as `__call__` on the whole videos, and the state after
          them.

        Raises:
          UserError: the output depends on later frames, or the state is that of another block or
            of another number of videos.
        """
        if reason := self.config.looks_ahead_because:
            raise UserError(f"this block cannot stream: {reason}")
        check_features(self.config, features)
        check_state(self.config, features.shape[0], state)
        dtype = carry_dtype(self.config.cell, features.dtype)
        state = jax.tree.map(lambda part: part.astype(dtype), state)
        output, after, _ = self._encode_process_decode(features, state, False)
        return output, after

    @nn.compact
    def _encode_process_decode(
        self, features: Array, state: State | None, train: bool
    ) -> tuple[RSTGOutput, State, Array | None]:
        """Runs the block from a state, or from zero if it is None.

        Returns the output, the state after it, and the early nodes `[b t n d]` if there are any.
        """
        check_features(self.config, features)
        graph = self.config.graph((features.shape[2], features.shape[3]))
        nodes = self._encode(features, graph, train)  # [n t b d]
        done = self._process(nodes, graph, state, train)
        nodes = self._decode(done.nodes, channels=features.shape[-1])  # [b t n d]
        early = None if done.early is None else clips_first(done.early)
        return RSTGOutput(nodes, schedules.mean_attention(done.attention)), done.state, early

    def _encode(self, features: Array, graph: Graph, train: bool) -> Array:
        """Pools each region, projects to `dim` and normalises; nodes go first, `[n t b d]`."""
        config = self.config
        if isinstance(graph, ObjectGraph):
            nodes = jnp.einsum("btnc->ntbc", features)
        else:
            nodes = self.pool(features, graph)  # [n t b c]
            check_pooled(features, graph, nodes)
        if nodes.shape[-1] != config.dim:
            nodes = nn.Dense(config.dim, dtype=nodes.dtype, name="project_in")(nodes)
        if config.input_batch_norm:
            nodes = BatchNorm((0, 1, 2), unbiased=True, name="input_norm")(nodes, train=train)
        # The official layer norm at this place has statistics of all frames of a clip.
        return post_norm(config, "graph_norm", nodes, train, unbiased=True, frames_together=True)

    def _process(
        self, nodes: Array, graph: Graph, state: State | None, train: bool
    ) -> schedules.PlanOutput:
        """Runs the plan."""
        config, begun = self.config, schedules.not_begun(nodes)
        # Linen creates the weights of a stage when it is called: initialization calls every stage.
        if config.schedule == "wavefront" and not self.is_initializing():
            if train and config.post_norm == "batch":
                raise UserError("schedule 'wavefront' cannot train with post_norm 'batch'")
            begun = schedules.run_wavefront(config, graph, self.variables, nodes, state)
        stages = schedules.make_stages(config, graph)
        return schedules.run_stages(config, stages, begun, state, train)

    def _decode(self, nodes: Array, channels: int) -> Array:
        """Normalises and projects back if configured; clips go first, `[b t n d]`."""
        if self.config.residual:
            nodes = LayerNorm(name="output_norm")(nodes)
        if self.project_back and channels != self.config.dim:
            nodes = nn.Dense(channels, dtype=nodes.dtype, name="project_out")(nodes)
        return clips_first(nodes)


def check_features(config: RSTGConfig, features: Array) -> None:
    """Raises `UserError` for features that a block cannot read."""
    shape, dtype = list(features.shape), features.dtype
    axes = ["batch", "frame", "object"] if config.objects else ["batch", "frame", "height", "width"]
    if len(shape) != len(axes) + 1:
        raise UserError(f"features {shape} are not [{', '.join(axes)}, channel]")
    if config.objects and shape[2] != config.objects:
        raise UserError(f"features {shape} are not of {config.objects} objects in each frame")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise UserError(f"features are {dtype}: convert them to a floating-point type")
    if 0 in shape:
        raise UserError(f"features {shape} are empty")


def check_pooled(features: Array, graph: RegionGraph, nodes: Array) -> None:
    """Raises `UserError` unless a `Pool` made one vector of each region in each frame."""
    found, wanted = jnp.shape(nodes), (graph.num_nodes, features.shape[1], features.shape[0])
    if len(found) != 4 or found[:3] != wanted:
        raise UserError(
            f"pool returned {list(found)}: it must return [node, frame, batch, channel], here "
            f"{list(wanted)} and any number of channels"
        )


def check_state(config: RSTGConfig, batch: Any, state: State) -> None:
    """Raises `UserError` unless a state has the carries of a block for so many videos."""
    wanted = jax.tree.map(jnp.shape, jax.eval_shape(lambda: init_state(config, batch)))
    found = jax.tree.map(jnp.shape, state)
    if found != wanted:
        raise UserError(
            f"the state has shapes {found}, this block needs {wanted}: "
            f"make it with init_state(config, batch={batch})"
        )


def clips_first(nodes: Float[Array, "n t b d"]) -> Float[Array, "b t n d"]:
    """Nodes in the order of axes that the block returns."""
    return jnp.einsum("ntbd->btnd", nodes)


def init_state(config: RSTGConfig, batch: Any, dtype: Any = jnp.float32) -> State:
    """Returns the state before the first frame of `batch` videos.

    Args:
      config: of the block.
      batch: number of videos; an integer, or a symbol of `jax.export`.
      dtype: of the features. Another one is accepted, but a jitted step then compiles twice.

    On a mesh with Explicit axes, put its axis of videos, the second, where that of the features is;
    inside `jax.shard_map` make it vary as they do (`jax.lax.pcast`).
    """
    shape = (config.graph().num_nodes, batch, config.dim)
    like = jnp.zeros(shape, carry_dtype(config.cell, dtype))
    state = tuple(zero_carry(config, like) for stage in config.stages if stage == "time")
    return jax.tree.map(jnp.copy, state)  # buffers of their own, so that a step may donate them


def to_vec(nodes: Float[Array, "b t n d"]) -> Float[Array, "b d"]:
    """Video vector: mean over frames and sum over nodes, as in the released code."""
    return nodes.mean(axis=1).sum(axis=1)


def to_map(
    nodes: Float[Array, "b t n d"], scales: tuple[int, ...], map_size: tuple[int, int]
) -> Float[Array, "b t h w d"]:
    """Feature map: the grid of each scale, resized by area to the map and summed over scales.

    Args:
      nodes: of a block.
      scales: `scales` of its config, in the same order, which is that of the nodes.
      map_size: height and width of the map.

    Raises:
      UserError: these scales have another number of nodes.
    """
    graph = RegionGraph(scales, map_size)
    if nodes.shape[2] != graph.num_nodes:
        raise UserError(
            f"nodes {list(nodes.shape)} are not the {graph.num_nodes} of scales {scales}: give the "
            "scales of the block's config"
        )
    unpool = graph.unpool
    return jnp.einsum("hwn,btnd->bthwd", unpool.astype(nodes.dtype), nodes)
