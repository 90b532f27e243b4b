"""A transformer over the frames of a clip, to compare recurrences with.

Pre-norm encoder layers as `torch.nn.TransformerEncoderLayer(norm_first=True, activation="gelu")`
without dropout, with a layer norm behind the last one. Positions in time are sines (Vaswani et al.
2017), so that clips of any length can be read.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.errors import UserError
from rstg_jax.layers.norms import LayerNorm
from rstg_jax.layers.transformer import Block, Linear, sine_table
from rstg_jax.models.heads.base import FinalBlock, HeadConfig
from rstg_jax.rstg.region_graph import RegionGraph

EPSILON = 1e-5  # of layer norms, as in PyTorch
MLP = 4  # width of the hidden layer, in widths of a frame


@dataclasses.dataclass(frozen=True)
class TransformerHead(HeadConfig):
    """Attention over all frames, without a graph.

    Attributes:
      scales: of the grids whose cells, side by side, are a frame's token, as of RSTG.
      dim: features of a token, an even number.
      layers: of the encoder.
      num_heads: of the attention; divides `dim`.
      causal: a frame attends to itself and those before only.
    """

    final_block: ClassVar[FinalBlock] = "unused"

    scales: tuple[int, ...] = (1,)
    dim: int = 64
    layers: int = 2
    num_heads: int = 4
    causal: bool = True

    def __post_init__(self) -> None:
        if min(self.dim, self.layers, self.num_heads) < 1:
            raise UserError("TransformerHead needs dim, layers and num_heads of at least 1")
        if self.dim % 2 or self.dim % self.num_heads:
            raise UserError(f"dim={self.dim} must be even, a multiple of num_heads")
        _ = RegionGraph(self.scales)  # checks them

    def build(self, name: str) -> "FrameTransformer":
        return FrameTransformer(self, name=name)


class FrameTransformer(nn.Module):
    """One token for each frame: its regions side by side, projected."""

    config: TransformerHead

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool = False) -> jax.Array:
        """Features `[b t h w c]` -> `[b t d]`, float32."""
        del train
        config = self.config
        b, t, h, w, c = features.shape
        pool = RegionGraph(config.scales, (h, w)).pool.astype(features.dtype)  # [n h w]
        regions = jnp.einsum("nhw,bthwc->btnc", pool, features).reshape(b, t, -1)
        x = Linear(config.dim, name="project_in")(regions)
        x = x + sine_table(t, config.dim).astype(x.dtype)
        for number in range(config.layers):
            layer = Block(
                config.num_heads,
                MLP * config.dim,
                EPSILON,
                causal=config.causal,
                name=f"layer{number}",
            )
            x = layer(x)
        return LayerNorm(epsilon=EPSILON, name="norm")(x).astype(jnp.float32)
