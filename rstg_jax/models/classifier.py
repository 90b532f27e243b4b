"""Whole models: backbone, RSTG blocks at named places, head, classifier."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.errors import ScopeParamShapeError

from rstg_jax.errors import UserError
from rstg_jax.models import object_map, region_heads
from rstg_jax.models.backbones.base import CLASS_TOKEN
from rstg_jax.models.config import FINAL, ModelConfig, ViewAverage
from rstg_jax.rstg.block import RSTG, RSTGOutput, State, region_means
from rstg_jax.rstg.region_graph import RegionGraph
from rstg_jax.rstg.residual import MapBranch, VectorBranch


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
        if reason := self.config.cannot_stream_because:
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
                channels = object_map.channels(out["object_map"], not config.head.convolves)
                features = channels.astype(features.dtype)
        if config.rstg_at and config.rstg.objects:
            if config.backbone.gives_objects:
                out["objects"] = object_map.given_objects(features)
            else:
                out["objects"] = object_map.find_objects(out["object_map"])
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
        """The inputs of the classifier, float32 `[b t d]`; early nodes; the block's new state.

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
