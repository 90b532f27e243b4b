"""Whole models: backbone -> RSTG block -> classifier."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax import presets, regions
from rstg_jax.backbones.simple_cnn import SimpleCNN, SimpleCNNConfig
from rstg_jax.errors import UserError
from rstg_jax.graph import RegionGraph
from rstg_jax.rstg import RSTG, RSTGConfig


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A video classifier.

    Attributes:
      backbone: turns frames into feature maps.
      rstg: the block on the last feature map.
      readout: frames that are averaged for the clip's prediction: "mean" of all (released code) or
        the "last" one (poster).
      node_sum: "sum" over nodes (official), or their "mean".
      dropout_rate: before the classifier, in training.
      region_classes: classes of objects that the head of the auxiliary training task knows (see
        `rstg_jax.regions`); 0 for no head.
      dtype: of the computation; parameters, norms, softmax and logits stay float32.
    """

    backbone: SimpleCNNConfig = dataclasses.field(default_factory=SimpleCNNConfig)
    rstg: RSTGConfig = dataclasses.field(default_factory=presets.modern)
    readout: Literal["mean", "last"] = "mean"
    node_sum: Literal["sum", "mean"] = "sum"
    dropout_rate: float = 0.0
    region_classes: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if not 0 <= self.dropout_rate < 1:
            raise UserError(f"model.dropout_rate={self.dropout_rate} must be in [0, 1)")
        if self.region_classes < 0:
            raise UserError(f"model.region_classes={self.region_classes} cannot be negative")


class VideoClassifier(nn.Module):
    """Backbone, RSTG block, to-vec and a linear classifier.

    Attributes:
      config: see `ModelConfig`.
      num_classes: number of labels.
    """

    config: ModelConfig
    num_classes: int

    @nn.compact
    def __call__(
        self, video: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Classifies clips.

        Args:
          video: `[b t h w c]` pixels 0..255, uint8 or float.
          train: dropout on, batch norm in training mode.

        Returns:
          Logits float32 `[b classes]`, and intermediates: `features` `[b t h w c]`, `nodes`
          `[b t n d]`, `frame_logits` float32 `[b t classes]` of every frame by itself, `attention`
          float32 `[k b t i j]` if the plan has space stages; with an auxiliary head also `regions`
          float32 `[b t n region_classes * 5]` and the regions' `boxes` `[n 4]`.
        """
        config = self.config
        features = SimpleCNN(config.backbone, jnp.dtype(config.dtype), name="backbone")(
            video, train=train
        )
        nodes, attention = RSTG(config.rstg, name="rstg")(features, train=train)
        out: dict[str, Any] = {"features": features, "nodes": nodes}
        if attention is not None:
            out["attention"] = attention

        nodes = nodes.astype(jnp.float32)
        frames = nodes.sum(axis=2) if config.node_sum == "sum" else nodes.mean(axis=2)  # [b t d]
        vector = frames.mean(axis=1) if config.readout == "mean" else frames[:, -1]
        classifier = nn.Dense(self.num_classes, name="classifier")
        dropout = nn.Dropout(config.dropout_rate, deterministic=not train)
        out["frame_logits"] = classifier(frames)
        if config.region_classes:
            graph = RegionGraph(config.rstg.scales)
            out["regions"] = self._regions(nodes, graph)
            out["boxes"] = jnp.asarray(graph.boxes, jnp.float32)
        return classifier(dropout(vector)), out

    def _regions(self, nodes: jax.Array, graph: RegionGraph) -> jax.Array:
        """The auxiliary head: a linear layer for each scale."""
        outputs = self.config.region_classes * regions.OUTPUTS
        heads = [
            nn.Dense(outputs, name=f"regions{number}")(nodes[:, :, where])
            for number, where in enumerate(graph.scale_slices)
        ]
        return jnp.concatenate(heads, axis=2)


def build(config: ModelConfig, num_classes: int) -> VideoClassifier:
    """The model of a configuration."""
    return VideoClassifier(config, num_classes)
