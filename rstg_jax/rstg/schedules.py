"""Orders in which the stages of a plan can run over the frames of a clip; all agree in the result.

Stage k at frame t needs stage k at t-1 and stage k-1 at t only. The paper loops over frames. Two
other orders have larger matrix products:

- "stage" runs one stage after the other over ALL frames.
- "wavefront" runs the diagonals t + k. All K rounds of a diagonal share their weights and are one
  product, so that there are T + K - 1 steps instead of T * K.

Both take the state of a video so far and return the state after the clip, for streaming.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rstg_jax.layers.array_types import Array, Float
from rstg_jax.rstg.config import RSTGConfig
from rstg_jax.rstg.recurrent_cells import Carry
from rstg_jax.rstg.region_graph import Graph
from rstg_jax.rstg.stages import SpaceStage, State, TimeStage, make_stage, zero_carry


class PlanOutput(NamedTuple):
    """The result of all stages of a plan, or of some of them.

    Attributes:
      nodes: after the last of these stages, `[n t b d]`.
      attention: of every space stage, `[i j t b h]`.
      state: of every time stage after the last frame.
      early: nodes after the first stage that connects frames, `[n t b d]`; None without one.
    """

    nodes: Array
    attention: tuple[Array, ...]
    state: State
    early: Array | None


def not_begun(nodes: Float[Array, "n t b d"]) -> PlanOutput:
    """The result of no stage: the nodes as they are."""
    return PlanOutput(nodes, (), (), None)


class Stages(NamedTuple):
    """The modules of a plan. Those that the plan does not call have no weights."""

    time: TimeStage
    last_time: TimeStage
    space: SpaceStage
    spacetime: SpaceStage


def make_stages(config: RSTGConfig, graph: Graph) -> Stages:
    """Creates the stages as children of the Linen module that calls this."""
    kinds: dict[str, Any] = {name: name for name in Stages._fields} | {"last_time": "time"}
    modules: dict[str, Any] = {
        name: make_stage(kind, config, graph, name=name) for name, kind in kinds.items()
    }
    return Stages(**modules)


def run_stages(
    config: RSTGConfig, stages: Stages, begun: PlanOutput, state: State | None, train: bool
) -> PlanOutput:
    """Runs the plan stage after stage, each over all frames.

    Args:
      config: of the block.
      stages: the modules.
      begun: the result of the stages of the plan that have run already; see `not_begun`.
      state: before the first frame; None is zero.
      train: batch norm uses and updates statistics of the batch.
    """
    nodes, attention, after, early = begun
    done = len(attention) + len(after)
    for number, kind in list(enumerate(config.stages, start=1))[done:]:
        if kind == "time":
            stage = stages.last_time if number == len(config.stages) else stages.time
            nodes, carry = stage(nodes, None if state is None else state[len(after)])
            after += (carry,)
        else:
            nodes, weights = (stages.space if kind == "space" else stages.spacetime)(nodes, train)
            attention += (weights,)
        if early is None and kind != "space":
            early = nodes
    return PlanOutput(nodes, attention, after, early)


def run_wavefront(
    config: RSTGConfig,
    graph: Graph,
    variables: Mapping[str, Mapping[str, Any]],
    nodes: Float[Array, "n t b d"],
    state: State | None,
) -> PlanOutput:
    """Runs all (time, space) rounds of the plan along the diagonals t + k.

    At step s round k is at frame s - k, and takes what round k-1 computed one step before. Rounds
    take the axis of the frames, `[n k b d]`.

    Args:
      config: of the block; its plan has `config.rounds` rounds.
      graph: the nodes.
      variables: of the block.
      nodes: input of the first round.
      state: before the first frame; None is zero.
    """
    rounds, t = config.rounds, nodes.shape[1]
    time = make_stage("time", config, graph, parent=None)
    space = make_stage("space", config, graph, parent=None)
    round_number = np.arange(rounds)[None, :, None, None]

    def variables_of(name: str) -> dict[str, Any]:
        return {kind: tree[name] for kind, tree in variables.items() if name in tree}

    def step(before: tuple[Array, Carry], x: tuple[Array, Array]) -> tuple[Any, Any]:
        outputs, carry = before  # of round k, one step ago
        s, frame = x
        inputs = jnp.concatenate([frame[:, None], outputs[:, :-1]], axis=1)
        # One frame of every round, [n 1 k b d].
        moved, new_carry = time.apply(variables_of("time"), inputs[:, None], carry)
        active = (s - round_number >= 0) & (s - round_number < t)  # the round is at a frame
        carry = tuple(
            jnp.where(active, new, old) for new, old in zip(new_carry, carry, strict=True)
        )
        outputs, attention = space.apply(variables_of("space"), moved[:, 0], False)
        return (outputs, carry), (outputs[:, -1], attention, moved[:, 0, 0])

    frames = jnp.pad(jnp.swapaxes(nodes, 0, 1), ((0, rounds - 1), (0, 0), (0, 0), (0, 0)))
    zero = jnp.zeros_like(jnp.swapaxes(frames[:rounds], 0, 1))  # lies where the nodes do
    if state is None:
        carry: Carry = zero_carry(config, zero)
    else:
        carry = tuple(jnp.stack(part, axis=1) for part in zip(*state[:rounds], strict=True))
    steps = jnp.arange(t + rounds - 1)
    (_, carry), scanned = jax.lax.scan(step, (zero, carry), (steps, frames))
    outputs, attention, early = scanned
    by_round = _attention_by_round(attention, rounds, t)
    after = tuple(tuple(part[:, k] for part in carry) for k in range(rounds))
    last, first = jnp.swapaxes(outputs[rounds - 1 :], 0, 1), jnp.swapaxes(early[:t], 0, 1)
    return PlanOutput(last, by_round, after, first)


def _attention_by_round(attention: Array, rounds: int, t: int) -> tuple[Array, ...]:
    """Attention of all steps `[s i j k b h]` -> of each round k, `[i j t b h]`."""
    return tuple(jnp.moveaxis(attention[k : k + t, :, :, k], 0, 2) for k in range(rounds))


def mean_attention(
    attention: Sequence[Float[Array, "n n t b h"]],
) -> Float[Array, "k b t n n"] | None:
    """Stacks the attention of all space stages, mean over heads; None without space stages."""
    if not attention:
        return None
    return jnp.einsum("kijtbh->kbtij", jnp.stack(attention)) / attention[0].shape[-1]
