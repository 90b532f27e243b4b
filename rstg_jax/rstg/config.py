"""All choices of a block, above all its plan: which stages run in which order."""

import dataclasses
import numbers
from collections.abc import Iterable
from typing import Literal, get_args, get_origin, get_type_hints

from rstg_jax.errors import UserError
from rstg_jax.rstg.region_graph import Graph, ObjectGraph, RegionGraph

Stage = Literal["time", "space", "spacetime"]
Attention = Literal["additive", "dot"]
Masking = Literal["exclude", "multiply"]
Neighbours = Literal["touching", "all"]
Cell = Literal["lstm", "gru", "lru", "rg_lru", "min_gru", "window", "dilated"]

STAGES = ("time", "space", "spacetime")
REMAT = (*STAGES, "messages")
FRAME_HEADS = 4  # of the cells "window" and "dilated"
ROUND: tuple[Stage, ...] = ("time", "space")  # one iteration of the paper's plan


def check_recurrence(cell: Cell, dim: int, lags: tuple[int, ...], memory_span: int) -> None:
    """Raises `UserError` if a time stage cannot be like this; see `RSTGConfig` for the fields."""
    if dim < 1:
        raise UserError(f"dim {dim} must be at least 1")
    if cell in ("window", "dilated") and dim % FRAME_HEADS:
        raise UserError(f"dim {dim} is no multiple of {FRAME_HEADS}, the heads of cell {cell!r}")
    if lags and (min(lags) < 1 or len(set(lags)) < len(lags)):
        raise UserError(f"lags {lags} must be different numbers of frames, 1 or more")
    if len(lags) > dim:
        raise UserError(f"{len(lags)} lags are more than the {dim} features that they share")
    if memory_span < 1:
        raise UserError(f"memory_span {memory_span} must be at least 1")


def stage_plan(iterations: int) -> tuple[Stage, ...]:
    """Returns the paper's plan for K iterations: K times (time, space), then a last time stage."""
    if iterations < 1:
        raise UserError(f"K = {iterations} iterations: the block needs at least 1")
    return ROUND * iterations + ("time",)


@dataclasses.dataclass(frozen=True)
class RSTGConfig:
    """Configuration of a block; `presets` has the official and the modern combination.

    Attributes:
      dim: node features d. Pooled features of another width are projected to it.
      scales: grids of regions, see `RegionGraph`.
      objects: number of objects that are the nodes, in place of regions; `scales` is then empty,
        and the block reads one vector of each object in place of a feature map, see `ObjectGraph`.
        Not in the paper.
      stages: the plan, any sequence of "time", "space" and "spacetime" (a space stage that also
        sends messages from each region to itself in the frames before and after, see
        `rstg_jax.rstg.spacetime`). Stages of one kind share weights, except that a time stage at
        the very end has its own. See `stage_plan`.
      attention: "additive" (GAT-like) or "dot".
      num_heads: attention heads ("dot" only); must divide `dim`.
      neighbours: regions that overlap or touch ("touching", as the paper says), or "all": any two
        regions compare what they hold at once, for twice as many messages with the scales of the
        paper. The released code, whose masking excludes nobody, sends messages between all, too.
      masking: "exclude" non-neighbours, or "multiply" the logits by the adjacency (official).
      positions: messages depend on the position maps of sender and receiver, or on which objects
        they are.
      update_layers: layers of the update MLP, 1 or 2.
      update_per_scale: separate update weights for each scale.
      input_batch_norm: batch norm of the nodes before the graph (official SyncMNIST setting).
      post_norm: norm before the graph and after messages, gather ("additive" only) and update, with
        statistics shared by all nodes of a frame (official settings "none", "layer", "batch").
      residual: pre-norm skip connections around time stage and update, norms per token; the
        published block has none.
      time_norm: the layer norm of such a time stage. It scales the nodes of every frame by another
        factor, which hides small changes from frame to frame.
      differences: time stages also read how each node has changed since the frame before. Motions
        are differences of places, which an LSTM learns slowly by itself. Not in the paper.
      lags: numbers of frames, such as 1, 2, 4, 8: time stages also read a projection of each node
        as it was so many frames ago, to d / len(lags) features. What is compared with a certain
        earlier frame then need not be remembered. See `rstg_jax.rstg.time_inputs`. Not in the
        paper.
      cell: of the time stages: "lstm" (published), "gru"; for long videos a linear recurrence,
        "lru", "rg_lru" or "min_gru", see `rstg_jax.rstg.linear_recurrences`, or attention to
        earlier frames, "window" or "dilated", see `rstg_jax.rstg.frame_attention`.
      forget_bias: initial bias of the gate that keeps the state of an LSTM or GRU.
      two_biases: parametrizes the bias of an LSTM as the sum of two vectors, as cuDNN does
        (official).
      memory_span: frames that the slowest units of a linear recurrence remember at the start, and
        how many frames "window" and "dilated" look back.
      schedule: order of the computation, "stage" or "wavefront", with the same results. See
        `rstg_jax.rstg.schedules`.
      message_frames: frames of a space stage whose messages are computed at once (rounded down to a
        divisor of the clip length); 0 chooses by device, see `rstg_jax.rstg.frame_chunks`.
      remat: activations that the backward pass recomputes instead of storing: those of whole kinds
        of stages, such as ("space",), or only the largest ones, ("messages",).
    """

    dim: int = 64
    scales: tuple[int, ...] = (3, 2, 1)
    objects: int = 0
    stages: tuple[str, ...] = (*ROUND * 3, "time")
    attention: Attention = "dot"
    num_heads: int = 1
    neighbours: Neighbours = "touching"
    masking: Masking = "exclude"
    positions: bool = True
    update_layers: int = 2
    update_per_scale: bool = False
    input_batch_norm: bool = False
    post_norm: Literal["none", "layer", "batch"] = "none"
    residual: bool = True
    time_norm: bool = True
    differences: bool = False
    lags: tuple[int, ...] = ()
    cell: Cell = "lstm"
    forget_bias: float = 1.0
    two_biases: bool = False
    memory_span: int = 256
    schedule: Literal["stage", "wavefront"] = "stage"
    message_frames: int = 0
    remat: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("scales", "stages", "lags", "remat"):  # of lists a block would have no hash
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Iterable):
                raise UserError(f"{name} {value!r} must be a tuple, such as ({value!r},)")
            object.__setattr__(self, name, tuple(value))
        self._check_integers()  # before they are compared
        check_recurrence(self.cell, self.dim, self.lags, self.memory_span)
        for conditions in (self._unknown_choices, self._bad_values, self._bad_combinations):
            for wrong, message in conditions():
                if wrong:
                    raise UserError(message)
        self.graph()  # checks the scales

    def _check_integers(self) -> None:
        """Raises `UserError` for a size or number that is no int, such as 8.0."""
        hints = get_type_hints(type(self)).items()
        single = {name: (getattr(self, name),) for name, hint in hints if hint is int}
        for name, values in {**single, "scales": self.scales, "lags": self.lags}.items():
            for value in values:
                if not isinstance(value, numbers.Integral):
                    where = name if name in single else f"{name} {values}:"
                    raise UserError(f"{where} {value!r} must be an int")

    def _unknown_choices(self) -> list[tuple[bool, str]]:
        """One condition for each field that takes one of a few words, with its error message."""
        choices = {
            name: get_args(hint)
            for name, hint in get_type_hints(type(self)).items()
            if get_origin(hint) is Literal
        }
        values = {name: getattr(self, name) for name in choices}
        return [
            (values[name] not in words, f"{name} {values[name]!r} is not one of {', '.join(words)}")
            for name, words in choices.items()
        ]

    def _bad_values(self) -> list[tuple[bool, str]]:
        """Conditions on single fields, each with its error message."""
        names = ", ".join(STAGES)
        unknown = [stage for stage in self.stages if stage not in STAGES]
        undivided = self.num_heads < 1 or self.dim % self.num_heads != 0
        return [
            (self.objects < 0, f"objects {self.objects} is negative"),
            (not self.stages, f"stages is empty: give at least one of {names}"),
            (bool(unknown), f"unknown stage {unknown[:1]} in stages; use {names}"),
            (undivided, f"num_heads {self.num_heads} does not divide dim {self.dim}"),
            (self.update_layers not in (1, 2), f"update_layers {self.update_layers} is not 1 or 2"),
            (bool(set(self.remat) - set(REMAT)), f"remat takes {', '.join(REMAT)}"),
            (self.message_frames < 0, f"message_frames {self.message_frames} is negative"),
        ]

    def _bad_combinations(self) -> list[tuple[bool, str]]:
        """Conditions on several fields, each with its error message."""
        normed = self.post_norm != "none"
        chunked = self.message_frames > 0 or "messages" in self.remat
        return [
            (
                self.num_heads > 1 and self.attention == "additive",
                "several heads need attention 'dot'",
            ),
            (
                self.objects > 0 and (len(self.scales) > 0 or self.neighbours != "all"),
                f"{self.objects} objects are the nodes: set scales to () and neighbours to 'all'",
            ),
            (self.residual and normed, "residual has its own norms: set post_norm 'none'"),
            (
                not (self.residual or self.time_norm),
                "time_norm is about skip connections: residual=false has no such norm",
            ),
            (
                "spacetime" in self.stages and (self.masking != "exclude" or normed),
                "the stage 'spacetime' needs masking 'exclude' and post_norm 'none'",
            ),
            (self.cell != "lstm" and self.two_biases, "two_biases needs cell 'lstm'"),
            (chunked and normed, "message_frames and remat 'messages' need post_norm 'none'"),
            (
                self.schedule == "wavefront" and not self.rounds,
                f"schedule 'wavefront' needs a plan that is {ROUND} several times and then at most "
                "one 'time'",
            ),
        ]

    def graph(self, map_size: tuple[int, int] = (6, 6)) -> Graph:
        """The regions of a feature map of this height and width, or the objects."""
        return ObjectGraph(self.objects) if self.objects else self.regions(map_size)

    def regions(self, map_size: tuple[int, int] = (6, 6)) -> RegionGraph:
        """The regions of a feature map of this height and width.

        Raises:
          UserError: the nodes are objects.
        """
        if self.objects:
            raise UserError(f"this needs regions; the nodes are {self.objects} objects")
        return RegionGraph(self.scales, map_size, complete=self.neighbours == "all")

    @property
    def rounds(self) -> int:
        """Repetitions of (time, space) if the plan is these and at most one last time stage.

        0 for any other plan, whose rounds do not share their computation.
        """
        rounds = self.stages.count("space")
        return rounds if self.stages in (ROUND * rounds, (*ROUND * rounds, "time")) else 0

    @property
    def goes_on_after_time(self) -> bool:
        """Whether stages follow the first one that connects frames."""
        return any(stage != "space" for stage in self.stages[:-1])

    @property
    def looks_ahead_because(self) -> str:
        """Why the output at a frame depends on later frames; empty if it does not."""
        if "spacetime" in self.stages:
            return "the stage 'spacetime' sends messages from the frame after"
        if self.post_norm == "layer":
            return "the official layer norm before the graph has statistics of the whole clip"
        return ""
