"""Residual branches with an RSTG block, which start as the identity.

`MapBranch` (to-map) adds the nodes to a feature map inside a network, `VectorBranch` (to-vec) adds
them to the vectors before the classifier. Source: paper section 3.4, official `comb_type plus`.
"""

from typing import Literal

import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.layers.array_types import Array, Float
from rstg_jax.layers.norms import OFFICIAL_LAYER_NORM_EPSILON, LayerNorm
from rstg_jax.rstg.block import RSTG, RSTGOutput, to_map, to_vec
from rstg_jax.rstg.config import RSTGConfig

BranchNorm = Literal["token", "clip", "none"]


class MapBranch(nn.Module):
    """Adds the output of a block to the feature volume that it reads.

    The nodes are projected back to the channels of the volume, resized to its map, normalised and
    multiplied by a gain per channel. The gain starts at 0, so that the branch can be inserted
    anywhere into a pretrained network.

    Attributes:
      config: of the block.
      norm: "token" (statistics of each pixel), "clip" (official: of frames, rows, columns and
        channels at once, future frames included) or "none".
    """

    config: RSTGConfig
    norm: BranchNorm = "token"

    @nn.compact
    def __call__(
        self, features: Float[Array, "b t h w c"], *, train: bool
    ) -> tuple[Float[Array, "b t h w c"], RSTGOutput]:
        """Returns the sum, and the output of the block."""
        out = RSTG(self.config, project_back=True, name="block")(features, train=train)
        height, width = features.shape[2:4]
        volume = to_map(out.nodes, self.config.scales, (height, width))
        return features + gated(self, self.norm, volume, (1, 2, 3, 4)), out


class VectorBranch(nn.Module):
    """Adds the output of a block on a feature volume to a vector of every frame.

    Attributes:
      config: of the block.
      norm: "token" (statistics of the vector of each frame), "clip" (official: of the mean vector
        of the clip, which is then added to every frame) or "none".
    """

    config: RSTGConfig
    norm: BranchNorm = "token"

    @nn.compact
    def __call__(
        self, features: Float[Array, "b t h w c"], vectors: Float[Array, "b #t c"], *, train: bool
    ) -> tuple[Float[Array, "b #t c"], RSTGOutput]:
        """Returns the sum of the vectors and the branch, and the output of the block.

        A vector for all frames is added to the branch of each.
        """
        out = RSTG(self.config, project_back=True, name="block")(features, train=train)
        nodes = out.nodes.astype(vectors.dtype)
        added = to_vec(nodes)[:, None] if self.norm == "clip" else nodes.sum(axis=2)
        return vectors + gated(self, self.norm, added, (1, 2)), out


def gated(
    module: nn.Module, norm: BranchNorm, x: Float[Array, "b *rest c"], axes: tuple[int, ...]
) -> Float[Array, "b *rest c"]:
    """Normalises a branch and multiplies it by a gain that starts at 0, bias included (official).

    Args:
      module: owner of the parameters `norm` and `scale`.
      norm: see the branches.
      x: output of the branch.
      axes: of the statistics for "clip", all but the batch.
    """
    if norm != "none":
        over, epsilon = ((-1,), 1e-6) if norm == "token" else (axes, OFFICIAL_LAYER_NORM_EPSILON)
        x = LayerNorm(over, epsilon, gain=False, name="norm", parent=module)(x)
    scale = module.param("scale", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
    return x * scale.astype(x.dtype)
