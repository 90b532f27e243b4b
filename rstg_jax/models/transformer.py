"""A transformer over the frames of a clip, to compare recurrences with.

Pre-norm encoder layers as `torch.nn.TransformerEncoderLayer(norm_first=True, activation="gelu")`
without dropout, with a layer norm behind the last one. Positions in time are sines (Vaswani et al.
2017), so that clips of any length can be read.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.layers.norms import LayerNorm
from rstg_jax.layers.transformer import Block, Linear, sine_table
from rstg_jax.rstg.region_graph import RegionGraph

EPSILON = 1e-5  # of layer norms, as in PyTorch
MLP = 4  # width of the hidden layer, in widths of a frame


class FrameTransformer(nn.Module):
    """One token for each frame: its regions side by side, projected.

    Attributes:
      scales: of the grids whose cells are the regions; (1,) is the mean of the map.
      dim: features of a token.
      layers: number of encoder layers.
      num_heads: of the attention; divides `dim`.
      causal: a frame attends to itself and those before only.
    """

    scales: tuple[int, ...]
    dim: int
    layers: int
    num_heads: int
    causal: bool

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool = False) -> jax.Array:
        """Features `[b t h w c]` -> `[b t d]`, float32."""
        del train
        b, t, h, w, c = features.shape
        pool = RegionGraph(self.scales, (h, w)).pool.astype(features.dtype)  # [n h w]
        regions = jnp.einsum("nhw,bthwc->btnc", pool, features).reshape(b, t, -1)
        x = Linear(self.dim, name="project_in")(regions)
        x = x + sine_table(t, self.dim).astype(x.dtype)
        for number in range(self.layers):
            layer = Block(
                self.num_heads, MLP * self.dim, EPSILON, causal=self.causal, name=f"layer{number}"
            )
            x = layer(x)
        return LayerNorm(epsilon=EPSILON, name="norm")(x).astype(jnp.float32)
