"""Heads of auxiliary training tasks, which ask regions what is in them and how it moves.

Evaluation never uses them. Not in the paper.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.layers.norms import LayerNorm
from rstg_jax.rstg.region_graph import RegionGraph

# Of `rstg_jax.training.region_loss`, for each class: presence logit, place y x, motion y x.
REGION_OUTPUTS = 5
# Of `rstg_jax.training.lone_object_loss`: logit of being in the pair, motion y x.
LONE_OBJECT_OUTPUTS = 3
MOTION_OUTPUTS = 2


def regions(nodes: jax.Array, graph: RegionGraph, classes: int, prefix: str = "") -> jax.Array:
    """Predicts the objects of each class: `[b t n d]` -> `[b t n classes * REGION_OUTPUTS]`.

    A linear layer for each scale of the graph, named with the prefix.
    """
    outputs = classes * REGION_OUTPUTS
    parts = [
        nn.Dense(outputs, name=f"{prefix}regions{number}")(nodes[:, :, where])
        for number, where in enumerate(graph.scale_slices)
    ]
    return jnp.concatenate(parts, axis=2)


def predict(
    nodes: jax.Array,
    early: jax.Array | None,
    graph: RegionGraph,
    region_classes: int,
    lone_objects: bool,
) -> dict[str, jax.Array]:
    """Predictions of all heads; their layers are children of the Linen module that calls this.

    Args:
      nodes: of the last block, `[b t n d]`.
      early: nodes after its first time stage, or None for no heads there.
      graph: the regions.
      region_classes: see `rstg_jax.models.config.ModelConfig`.
      lone_objects: likewise.

    Returns:
      The regions' `boxes` `[n 4]`; `regions` and `lone_objects`, float32 `[b t n outputs]`, as far
      as they are asked for; and of early nodes `early_regions` and `early_motion`.
    """
    out = {"boxes": jnp.asarray(graph.boxes, jnp.float32)}
    nodes = nodes.astype(jnp.float32)
    if region_classes:
        out["regions"] = regions(nodes, graph, region_classes)
    if lone_objects:
        out["lone_objects"] = nn.Dense(LONE_OBJECT_OUTPUTS, name="lone_objects")(nodes)
    if early is None:
        return out
    early = LayerNorm(name="early_norm")(early.astype(jnp.float32))
    if region_classes:
        out["early_regions"] = regions(early, graph, region_classes, prefix="early_")
    if lone_objects:
        out["early_motion"] = nn.Dense(MOTION_OUTPUTS, name="early_motion")(early)
    return out
