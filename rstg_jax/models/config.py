"""The configuration of a whole model, and which choices go together."""

import dataclasses
from typing import Literal

from rstg_jax import config
from rstg_jax.errors import UserError
from rstg_jax.models.backbones import BackboneConfig, SimpleCNNConfig
from rstg_jax.models.heads import HeadConfig, NodePooling
from rstg_jax.rstg import presets
from rstg_jax.rstg.config import RSTGConfig
from rstg_jax.rstg.residual import BranchNorm

ViewAverage = Literal["logits", "softmax", "max"]
FINAL = "final"  # the place behind the whole backbone


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A video classifier.

    Attributes:
      backbone: turns frames into feature maps.
      rstg: the block; each place has weights of its own. With `objects` its nodes are the objects
        of `map_classes`, see `rstg_jax.models.object_map.of_objects`, or those on the maps of a
        `CoordinatesConfig`.
      rstg_at: where blocks are; empty for none. "res3" is behind the block before the last of stage
        res3 (official), "res3.0" behind its first, "conv0" behind the first convolution of a
        `SimpleCNNConfig`: such blocks add to the feature map (`MapBranch`). "final" is behind the
        backbone: a `NodePooling` reads the block's nodes, a `GlobalPooling` the mean of the map
        with the block's vector added (`VectorBranch`).
      head: makes the vectors that the classifier reads.
      branch_norm: norm of the output that blocks add, see `rstg_jax.rstg.residual`.
      readout: frames that are averaged for the clip's prediction: "mean" of all (released code) or
        the "last" one (poster).
      dropout_rate: before the classifier, in training.
      view_average: what the views of a video become in evaluation: the mean of their "logits"
        (official), that of their probabilities, "softmax" (SlowFast, non-local networks, V-JEPA 2),
        or for each label the "max" of its logits, and so of its sigmoids (SlowFast on Charades).
      region_classes: number of object classes of the auxiliary training task (see
        `rstg_jax.training.region_loss`), whose head reads the last block's nodes; 0 for no head.
        In a model without blocks the whole frame is the only region.
      lone_objects: likewise a head for the task of `rstg_jax.training.lone_object_loss`.
      early_heads: heads for these tasks, but for what takes comparing, read the nodes after the
        block's first time stage as well. The last time stage has weights of its own: without this,
        nothing asks the earlier ones for motions, and the space stages between have none to
        compare.
      map_classes: likewise of the task of `rstg_jax.training.map_loss`, whose head reads the
        backbone's last map.
      map_channels: what is behind the backbone reads the predictions of that head in place of the
        backbone's features, see `rstg_jax.models.object_map.channels`.
      map_pool: how places on that map are averaged over a region, or over the frame for a "mean"
        `RNNHead`: over the "area", or weighted by "presence", see
        `rstg_jax.models.object_map.pool_by_presence`. Other heads know "area" only.
      dtype: of the computation; parameters, norms, softmax and logits stay float32.
    """

    backbone: BackboneConfig = dataclasses.field(default_factory=SimpleCNNConfig)
    rstg: RSTGConfig = dataclasses.field(default_factory=presets.modern)
    rstg_at: tuple[str, ...] = (FINAL,)
    head: HeadConfig = dataclasses.field(default_factory=NodePooling)
    branch_norm: BranchNorm = "token"
    readout: Literal["mean", "last"] = "mean"
    dropout_rate: float = 0.0
    view_average: ViewAverage = "logits"
    region_classes: int = 0
    lone_objects: bool = False
    early_heads: bool = False
    map_classes: int = 0
    map_channels: bool = False
    map_pool: Literal["area", "presence"] = "area"
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        config.check(self)
        if not 0 <= self.dropout_rate < 1:
            raise UserError(f"dropout_rate={self.dropout_rate} must be in [0, 1)")
        for key in ("region_classes", "map_classes"):
            if getattr(self, key) < 0:
                raise UserError(f"{key}={getattr(self, key)} cannot be negative")
        if self.map_channels and not self.map_classes:
            raise UserError("map_channels needs map_classes above 0")
        if self.map_pool == "presence" and not self.map_channels:
            raise UserError("map_pool 'presence' needs map_channels")
        names = list(self.resolved)
        if len(set(names)) < len(names):
            raise UserError(f"rstg_at {self.rstg_at} names a place twice")
        head = type(self.head).__name__
        if self.head.final_block == "nodes" and FINAL not in names:
            raise UserError(f"head={head} reads a block at rstg_at 'final'")
        if self.head.reads_class_token and not self.backbone.class_token:
            raise UserError(
                f"head={head} reads a token that {type(self.backbone).__name__} does not have"
            )
        if self.head.final_block == "unused" and FINAL in names:
            raise UserError(f"head={head} has no use for a block at 'final'")
        if self.rstg_at and self.rstg.objects:
            self._check_objects()
        if self.early_heads and not (
            self.head.final_block == "nodes" and self.rstg.goes_on_after_time
        ):
            raise UserError(
                "early_heads needs a block whose nodes the head reads, with stages after its first "
                "time stage"
            )
        if self.early_heads and not (self.region_classes or self.lone_objects):
            raise UserError(
                "early_heads has no task: set region_classes or lone_objects, or early_heads=false"
            )

    def _check_objects(self) -> None:
        """Raises `UserError` if the block's nodes are objects that this model does not find."""
        objects, given = self.rstg.objects, self.backbone.gives_objects
        if self.map_classes != (0 if given else objects):
            name = type(self.backbone).__name__
            wanted = f"no map_classes with {name}" if given else f"map_classes={objects}"
            raise UserError(f"rstg.objects={objects} needs {wanted}: it is {self.map_classes}")
        if self.head.final_block != "nodes" or len(self.rstg_at) > 1:
            raise UserError("rstg.objects needs a single block, whose nodes the head reads")
        if self.map_channels:
            raise UserError("a block on rstg.objects reads no map: set map_channels=false")
        if self.region_classes or self.lone_objects:
            raise UserError(
                "the tasks of region_classes and lone_objects are for regions, not rstg.objects"
            )

    @property
    def resolved(self) -> tuple[str, ...]:
        """Full names of the places."""
        return tuple(p if p == FINAL else self.backbone.resolve(p) for p in self.rstg_at)

    def check_pooling(self) -> None:
        """Checks, for a training from step 0, that the head reads what `map_pool` is about.

        Not when a model is made: older checkpoints have a `map_pool` without effect.

        Raises:
          UserError: it does not.
        """
        reads = self.head.final_block == "nodes" or self.head.reads_mean
        if self.map_pool == "presence" and not reads:
            raise UserError(
                "config key 'model.map_pool': presence would change nothing, as "
                f"{type(self.head).__name__} does not read means of the map; set area"
            )

    @property
    def attends_to_objects(self) -> bool:
        """Whether it returns which nodes may hold objects, with their attention to each other."""
        attends = bool(self.rstg_at) and set(self.rstg.stages) != {"time"}
        return attends and (self.region_classes > 0 or self.lone_objects or self.rstg.objects > 0)

    @property
    def cannot_stream_because(self) -> str:
        """Why `VideoClassifier.stream` cannot be used; empty if it can."""
        if self.head.final_block != "nodes" or len(self.rstg_at) > 1:
            return "only a single block whose nodes the head reads carries its state on"
        if not self.backbone.per_frame:
            return "its backbone reads several frames together"
        return self.rstg.looks_ahead_because
