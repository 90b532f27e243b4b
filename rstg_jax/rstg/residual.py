"""RSTG beside a network: residual branches that start as the identity.

`MapBranch` (to-map) adds the nodes to a feature map inside the network, `VectorBranch` (to-vec) to
the vector that the classifier reads. Source: paper section 3.4 and the official `comb_type plus`.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.layers.norms import OFFICIAL_LAYER_NORM_EPSILON, LayerNorm
from rstg_jax.rstg.block import RSTG, RSTGConfig, RSTGOutput, to_map, to_vec

BranchNorm = Literal["token", "clip", "none"]


class MapBranch(nn.Module):
    """Adds what a block says about a feature volume to the volume.

    The nodes are projected back to the volume's channels, resized to its map and normalised; a
    gain of each channel that starts at 0 makes the whole branch nothing at the start, so it can be
    put anywhere into a pretrained network.

    Attributes:
      config: of the block.
      norm: statistics of each pixel's "token", of the whole "clip" (official: frames, rows, columns
        and channels at once; looks at future frames), or "none".
    """

    config: RSTGConfig
    norm: BranchNorm = "token"

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool) -> tuple[jax.Array, RSTGOutput]:
        """`[b t h w c]` -> the same shape, and what the block returned."""
        out = RSTG(self.config, project_back=True, name="block")(features, train=train)
        height, width = features.shape[2:4]
        volume = to_map(out.nodes, self.config.scales, (height, width))
        return features + gated(self, self.norm, volume, (1, 2, 3, 4)), out


class VectorBranch(nn.Module):
    """Adds what a block says about a feature volume to a vector of every frame.

    Attributes:
      config: of the block.
      norm: statistics of each frame's vector ("token"), of the clip's mean vector, which then is
        added to every frame ("clip", official), or "none".
    """

    config: RSTGConfig
    norm: BranchNorm = "token"

    @nn.compact
    def __call__(
        self, features: jax.Array, vectors: jax.Array, *, train: bool
    ) -> tuple[jax.Array, RSTGOutput]:
        """Features `[b t h w c]`, vectors `[b t c]` -> vectors, and what the block returned."""
        out = RSTG(self.config, project_back=True, name="block")(features, train=train)
        nodes = out.nodes.astype(vectors.dtype)
        added = to_vec(nodes)[:, None] if self.norm == "clip" else nodes.sum(axis=2)
        return vectors + gated(self, self.norm, added, (1, 2)), out


def gated(module: nn.Module, norm: BranchNorm, x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Normalises `x` `[b ... c]` and applies the gain that starts at 0, bias included (official).

    Args:
      module: whose parameters `norm` and `scale` become.
      norm: see the branches.
      x: what the branch adds.
      axes: of the statistics for "clip": all but the batch.
    """
    if norm != "none":
        over, epsilon = ((-1,), 1e-6) if norm == "token" else (axes, OFFICIAL_LAYER_NORM_EPSILON)
        x = LayerNorm(over, epsilon, gain=False, name="norm", parent=module)(x)
    scale = module.param("scale", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
    return x * scale.astype(x.dtype)
