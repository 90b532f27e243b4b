"""The recurrent space-time graph block: features of any backbone in, graph nodes out.

Source: paper section 3 and Algorithm 1. The block is usable alone:

    nodes, attention = block.apply(variables, features)      # [b t h w c] -> [b t n d]

and frame by frame, or chunk by chunk, in constant memory and time a frame:

    state = init_state(config, batch)
    (nodes, attention), state = block.apply(variables, chunk, state, method="stream")

Stage k at frame t needs stage k at t-1 and stage k-1 at t only, so that two schedules give the
same numbers as the paper's frame-by-frame loop. "stage" runs one stage after the other over ALL
frames: the largest matrix products. "wavefront" runs the diagonals t + k, all K rounds of a
diagonal in one product, for they share weights: T + K - 1 steps instead of T * K.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rstg_jax.errors import UserError
from rstg_jax.layers.norms import BatchNorm, LayerNorm
from rstg_jax.rstg.config import RSTGConfig, stage_plan
from rstg_jax.rstg.recurrent_cells import STATES, Carry
from rstg_jax.rstg.region_graph import RegionGraph
from rstg_jax.rstg.stages import SpaceStage, TimeStage, post_norm

__all__ = ["RSTG", "RSTGConfig", "RSTGOutput", "init_state", "stage_plan", "to_map", "to_vec"]

State = tuple[Carry, ...]  # one for each time stage of the plan, in order; arrays [n b d]


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
      project_back: project the nodes back to the width of the features if it differs from `dim`.
    """

    config: RSTGConfig
    project_back: bool = False

    def __call__(self, features: jax.Array, *, train: bool = False) -> RSTGOutput:
        """Runs the stage plan.

        Args:
          features: backbone features `[b t h w c]`, any height and width.
          train: batch norm uses and updates statistics of the batch.
        """
        return self._run(features, None, train)[0]

    def stream(self, features: jax.Array, state: State) -> tuple[RSTGOutput, State]:
        """Goes on with the next frames of a video.

        Args:
          features: of the next frames, `[b t h w c]`; t may be 1.
          state: from `init_state` or from the frames before.

        Returns:
          What `__call__` on the whole video returns for these frames, and the state after them.

        Raises:
          UserError: the block looks at later frames.
        """
        if reason := self.config.looks_ahead:
            raise UserError(f"this block cannot stream: {reason}")
        return self._run(features, state, False)

    @nn.compact
    def _run(
        self, features: jax.Array, state: State | None, train: bool
    ) -> tuple[RSTGOutput, State]:
        config, channels = self.config, features.shape[-1]
        graph = RegionGraph(config.scales, (features.shape[2], features.shape[3]))
        # [b t h w c] -> [n t b c]: see rstg_jax.rstg.message_passing for the layout
        nodes = jnp.einsum("nhw,bthwc->ntbc", graph.pool.astype(features.dtype), features)
        if channels != config.dim:
            nodes = nn.Dense(config.dim, dtype=nodes.dtype, name="project_in")(nodes)
        nodes = self._normalise_input(nodes, train)

        # Linen declares weights where a stage is called: at the start that is in plan order.
        if config.schedule == "wavefront" and not self.is_initializing():
            nodes, attention, after = self._wavefront(nodes, graph, state, train)
            done = 2 * config.rounds
        else:
            attention, after, done = [], (), 0
        time = self._step(TimeStage, "time")(config, name="time")
        last_time = self._step(TimeStage, "time")(config, name="last_time")
        space = self._step(SpaceStage, "space")(config, graph, name="space")
        spacetime = self._step(SpaceStage, "spacetime")(config, graph, True, name="spacetime")
        for number, stage in list(enumerate(config.stages, start=1))[done:]:
            if stage == "time":
                step = last_time if number == len(config.stages) else time
                nodes, carry = step(nodes, state and state[len(after)])
                after += (carry,)
            else:
                nodes, weights = (space if stage == "space" else spacetime)(nodes, train)
                attention.append(weights)

        if config.residual:
            nodes = LayerNorm(name="output_norm")(nodes)
        if self.project_back and channels != config.dim:
            nodes = nn.Dense(channels, dtype=nodes.dtype, name="project_out")(nodes)
        output = RSTGOutput(
            jnp.einsum("ntbd->btnd", nodes),
            jnp.einsum("kijtbh->kbtij", jnp.stack(attention)) / config.num_heads
            if attention
            else None,
        )
        return output, after

    def _step(self, kind: type[nn.Module], stage: str) -> Any:
        """The module of a stage, recomputed in the backward pass if the configuration says so."""
        if stage not in self.config.remat:
            return kind
        return nn.remat(kind, static_argnums=(2,) if kind is SpaceStage else ())

    def _wavefront(
        self, nodes: jax.Array, graph: RegionGraph, state: State | None, train: bool
    ) -> tuple[jax.Array, list[jax.Array], State]:
        """All (time, space) rounds of the plan along diagonals t + k.

        At step s round k is at frame s - k, and takes what round k-1 made one step before. Rounds
        stand where frames stand in the other schedule, `[n k b d]`.

        Returns:
          Nodes after the last round `[n t b d]`, attention of each round, state of each round.
        """
        config, rounds = self.config, self.config.rounds
        if train and config.post_norm == "batch":
            raise UserError("model.rstg.schedule 'wavefront' cannot train with batch norm inside")
        n, t, b, d = nodes.shape
        weights = {kind: dict(tree) for kind, tree in self.variables.items()}

        def of(name: str) -> dict[str, Any]:
            return {kind: tree[name] for kind, tree in weights.items() if name in tree}

        time = self._step(TimeStage, "time")(config, parent=None)
        space = self._step(SpaceStage, "space")(config, graph, parent=None)
        number = np.arange(rounds)[None, :, None, None]

        def step(before: Any, x: tuple[jax.Array, jax.Array]) -> tuple[Any, Any]:
            made, carry = before  # made by round k one step ago
            s, frame = x
            taken = jnp.concatenate([frame[:, None], made[:, :-1]], axis=1)
            # One frame of every round: rounds go with the clips, [n 1 k*b d].
            flat = [c.reshape(n, rounds * b, d) for c in carry]
            moved, new = time.apply(of("time"), taken.reshape(n, 1, rounds * b, d), tuple(flat))
            here = (s - number >= 0) & (s - number < t)  # this round has a frame at this step
            carry = tuple(
                jnp.where(here, one.reshape(old.shape), old)
                for one, old in zip(new, carry, strict=True)
            )
            made, attention = space.apply(of("space"), moved.reshape(n, rounds, b, d), False)
            return (made, carry), (made[:, -1], attention)

        frames = jnp.pad(jnp.swapaxes(nodes, 0, 1), ((0, rounds - 1), (0, 0), (0, 0), (0, 0)))
        nothing = jnp.zeros_like(nodes, shape=(n, rounds, b, d))
        if state is None:
            start = (nothing,) * STATES[config.cell]
        else:
            start = tuple(jnp.stack(part, axis=1) for part in zip(*state[:rounds], strict=True))
        first = (nothing, start)
        steps = jnp.arange(t + rounds - 1)
        (_, carry), (made, attention) = jax.lax.scan(step, first, (steps, frames))
        weights_of_rounds = [
            jnp.moveaxis(attention[k : k + t, :, :, k], 0, 2) for k in range(rounds)
        ]  # [t i j b h] -> [i j t b h]
        after = tuple(tuple(part[:, k] for part in carry) for k in range(rounds))
        return jnp.swapaxes(made[rounds - 1 :], 0, 1), weights_of_rounds, after

    def _normalise_input(self, nodes: jax.Array, train: bool) -> jax.Array:
        """Norms before the graph; the official layer norm mixes all frames of a clip."""
        if self.config.input_batch_norm:
            nodes = BatchNorm((0, 1, 2), unbiased=True, name="input_norm")(nodes, train=train)
        return post_norm(
            self.config, "graph_norm", nodes, train, unbiased=True, frames_together=True
        )


def init_state(config: RSTGConfig, batch: int, dtype: Any = jnp.float32) -> State:
    """State of all time stages before the first frame of `batch` videos."""
    zero = jnp.zeros((RegionGraph(config.scales).num_nodes, batch, config.dim), dtype)
    return tuple((zero,) * STATES[config.cell] for stage in config.stages if stage == "time")


def to_vec(nodes: jax.Array) -> jax.Array:
    """Video vector, `[b t n d]` -> `[b d]`: mean over frames, sum over nodes (released code)."""
    return nodes.mean(axis=1).sum(axis=1)


def to_map(nodes: jax.Array, scales: tuple[int, ...], map_size: tuple[int, int]) -> jax.Array:
    """Nodes back on the map: area-resized scales, summed; `[b t n d]` -> `[b t h w d]`."""
    unpool: np.ndarray = RegionGraph(scales, map_size).unpool
    return jnp.einsum("hwn,btnd->bthwd", unpool.astype(nodes.dtype), nodes)
