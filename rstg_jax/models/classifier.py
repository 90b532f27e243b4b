"""Whole models: backbone, RSTG blocks at named places, head, classifier."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.errors import ScopeParamShapeError

from rstg_jax.errors import UserError
from rstg_jax.models import object_map, region_heads
from rstg_jax.models.backbones import BackboneConfig, CoordinatesConfig, SimpleCNNConfig
from rstg_jax.models.backbones.base import CLASS_TOKEN
from rstg_jax.models.heads import HeadConfig, NodePooling
from rstg_jax.rstg import presets
from rstg_jax.rstg.block import RSTG, RSTGConfig, RSTGOutput, State, region_means
from rstg_jax.rstg.region_graph import RegionGraph
from rstg_jax.rstg.residual import BranchNorm, MapBranch, VectorBranch

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
      map_pool: how places on that map are averaged over a region, or over the frame for heads that
        read its mean: over the "area", or weighted by "presence", see
        `rstg_jax.models.object_map.pool_by_presence`.
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
        if not 0 <= self.dropout_rate < 1:
            raise UserError(f"dropout_rate={self.dropout_rate} must be in [0, 1)")
        for key in ("region_classes", "map_classes"):
            if getattr(self, key) < 0:
                raise UserError(f"{key}={getattr(self, key)} cannot be negative")
        if self.map_channels and not self.map_classes:
            raise UserError("map_channels needs map_classes above 0")
        if self.map_pool not in ("area", "presence"):
            raise UserError(f"map_pool {self.map_pool!r} is not one of area, presence")
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
        objects, given = self.rstg.objects, isinstance(self.backbone, CoordinatesConfig)
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

    @property
    def attends_to_objects(self) -> bool:
        """Whether it returns which nodes may hold objects, with their attention to each other."""
        attends = bool(self.rstg_at) and set(self.rstg.stages) != {"time"}
        return attends and (self.region_classes > 0 or self.lone_objects or self.rstg.objects > 0)

    @property
    def no_stream(self) -> str:
        """Why `VideoClassifier.stream` cannot be used; empty if it can."""
        if self.head.final_block != "nodes" or len(self.rstg_at) > 1:
            return "only a single block whose nodes the head reads carries its state on"
        if not self.backbone.per_frame:
            return "its backbone reads several frames together"
        return self.rstg.looks_ahead


class VideoClassifier(nn.Module):
    """The network of a `ModelConfig`.

    Attributes:
      config: see `ModelConfig`.
      num_classes: number of labels.
    """

    config: ModelConfig
    num_classes: int

    def __call__(
        self, video: jax.Array, boxes: jax.Array | None = None, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Classifies clips.

        Args:
          video: `[b t h w c]` pixels 0..255, uint8 or float; for an `IdentityConfig` feature maps.
          boxes: for a head that reads them boxes of objects, float32 `[b t n 4]`, y0 x0 y1 x1 in
            fractions of the frame; those without area stand for none.
          train: dropout on, batch norm in training mode.

        Returns:
          Logits float32 `[b classes]`, and intermediates: `features` `[b t h w c]` that the head or
          the last block read, `frame_logits` float32 `[b t classes]` of every frame by itself; of
          the last block `nodes` `[b t n d]` and `attention` float32 `[k b t i j]` if its plan has
          space stages, and of every block the same in `graphs`, by place; with auxiliary heads
          also those of `rstg_jax.models.region_heads.predict`, and `object_map` float32
          `[b t h w map_classes 3]`; and with nodes that are objects `objects`, see
          `rstg_jax.models.object_map.Objects`.

        Raises:
          UserError: the video has other axes, or its frames do not fit the weights.
        """
        logits, out, _ = self._classify(video, None, train, boxes)
        return logits, out

    def stream(
        self, video: jax.Array, state: State
    ) -> tuple[tuple[jax.Array, dict[str, Any]], State]:
        """Classifies the next part of videos, with what the block keeps of the parts before.

        Args:
          video: the next frames, `[b t h w c]`; t may be 1.
          state: of the block, see `rstg_jax.rstg.block.init_state`, or after the part before.

        Returns:
          The same as `__call__`, logits being of these frames, and the state after them.

        Raises:
          UserError: the model needs its videos whole.
        """
        if reason := self.config.no_stream:
            raise UserError(f"this model cannot stream: {reason}")
        logits, out, after = self._classify(video, state, False)
        assert after is not None
        return (logits, out), after

    @nn.compact
    def _classify(
        self,
        video: jax.Array,
        state: State | None,
        train: bool,
        boxes: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any], State | None]:
        """Logits and intermediates; the state after the videos, if there is one before."""
        config = self.config
        if video.ndim != 5:
            raise UserError(
                f"video {list(video.shape)} is not [batch, frame, height, width, channel]"
            )
        graphs: dict[str, RSTGOutput] = {}
        features, token = self._features(video, graphs, train)
        out: dict[str, Any] = {"features": features, "graphs": graphs}
        if config.map_classes:
            head = object_map.ObjectMap(config.map_classes, name="object_map")
            out["object_map"] = head(features)
            if config.map_channels:
                features = object_map.channels(out["object_map"]).astype(features.dtype)
        if config.rstg_at and config.rstg.objects:
            if config.map_classes:
                out["objects"] = object_map.find_objects(out["object_map"])
            else:
                out["objects"] = object_map.given_objects(features)
            features = object_map.of_objects(out["objects"]).astype(features.dtype)
        frames, early, state = self._read(features, token, graphs, state, train, boxes)
        if graphs:
            last = list(graphs.values())[-1]
            out["nodes"] = last.nodes
            if last.attention is not None:
                out["attention"] = last.attention

        vector = frames.mean(axis=1) if config.readout == "mean" else frames[:, -1]
        classifier = nn.Dense(self.num_classes, name="classifier")
        dropout = nn.Dropout(config.dropout_rate, deterministic=not train)
        out["frame_logits"] = classifier(frames)
        if config.region_classes or config.lone_objects:
            nodes = out["nodes"] if graphs else frames[:, :, None]
            graph = config.rstg.regions() if config.rstg_at else RegionGraph((1,))
            out |= region_heads.predict(
                nodes, early, graph, config.region_classes, config.lone_objects
            )
        return classifier(dropout(vector)), out, state

    def _features(
        self, video: jax.Array, graphs: dict[str, RSTGOutput], train: bool
    ) -> tuple[jax.Array, jax.Array | None]:
        """The last features of the backbone, and its token of the whole clip if the head reads it.

        Adds the outputs of blocks inside the backbone to `graphs`.
        """
        config = self.config

        def branch_at(place: str) -> Callable[[jax.Array], jax.Array]:
            branch = MapBranch(config.rstg, config.branch_norm, name=block_name(place))

            def apply(features: jax.Array) -> jax.Array:
                features, graphs[place] = branch(features, train=train)
                return features

            return apply

        inside = {place: branch_at(place) for place in config.resolved if place != FINAL}
        token: jax.Array | None = None

        def keep(found: jax.Array) -> jax.Array:
            nonlocal token
            token = found
            return found

        if config.head.reads_class_token:
            inside[CLASS_TOKEN] = keep
        backbone = config.backbone.build(jnp.dtype(config.dtype), name="backbone")
        try:
            return backbone(video, train=train, after=inside), token
        except ScopeParamShapeError as e:
            found, _, _ = str(e).partition(" (http")
            raise UserError(
                f"video {list(video.shape)} does not fit the weights, which are for frames of "
                f"another size, for other channels or for another network. {found}"
            ) from e

    def _read(
        self,
        features: jax.Array,
        token: jax.Array | None,
        graphs: dict[str, RSTGOutput],
        state: State | None,
        train: bool,
        boxes: jax.Array | None,
    ) -> tuple[jax.Array, jax.Array | None, State | None]:
        """What the classifier reads, float32 `[b t d]`; early nodes; the block's new state.

        There are early nodes for `ModelConfig.early_heads` and whole clips only.
        """
        config, name = self.config, block_name(FINAL)
        head, weighted = config.head.build("head"), config.map_pool == "presence"
        if config.head.final_block == "nodes":
            pool = object_map.pool_by_presence if weighted else region_means
            block, early = RSTG(config.rstg, config.head.projects_back, pool, name=name), None
            if state is not None:
                graphs[FINAL], state = block.stream(features, state)
            elif config.early_heads:
                graphs[FINAL], early = block.with_early_nodes(features, train=train)
            else:
                graphs[FINAL] = block(features, train=train)
            return head(graphs[FINAL].nodes, train=train), early, state
        if weighted and config.head.reads_mean:
            frame = RegionGraph((1,), (features.shape[2], features.shape[3]))
            whole = object_map.pool_by_presence(features, frame)
            features = jnp.einsum("ntbc->btnc", whole)[:, :, None]
        extra = (boxes,) if config.head.reads_boxes else ()
        vectors = head(features if token is None else token, *extra, train=train)
        if FINAL in config.rstg_at:
            branch = VectorBranch(config.rstg, config.branch_norm, name=name)
            vectors, graphs[FINAL] = branch(features, vectors, train=train)
        return vectors, None, state


def over_views(
    logits: jax.Array, average: ViewAverage, places: np.ndarray | None = None
) -> jax.Array:
    """Logits of videos, `[b classes]`, from those of their views, `[b v classes]`.

    Args:
      logits: of each view.
      average: see `ModelConfig.view_average`; for "softmax" the logarithm of the mean of the
        probabilities is returned.
      places: if some views are mirrored, where the logits of each view are among those of all, int
        `[v classes]` of `[v * classes]`.
    """
    if average == "softmax":
        logits = jax.nn.log_softmax(logits)
    if places is not None:
        logits = logits.reshape(len(logits), -1)[:, places]
    if average == "max":
        return logits.max(axis=1)
    if average == "logits":
        return logits.mean(axis=1)
    return jax.nn.logsumexp(logits, axis=1) - jnp.log(float(logits.shape[1]))


def block_name(place: str) -> str:
    """Name of the weights of the block at a place: "rstg_res3_1"."""
    return f"rstg_{place.replace('.', '_')}"


def build(config: ModelConfig, num_classes: int) -> VideoClassifier:
    """The model of a configuration."""
    return VideoClassifier(config, num_classes)
