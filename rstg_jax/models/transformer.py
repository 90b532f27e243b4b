"""A transformer over the frames of a clip, to compare recurrences with.

Pre-norm encoder layers as `torch.nn.TransformerEncoderLayer(norm_first=True, activation="gelu")`
without dropout, with a layer norm behind the last one. Positions in time are sines (Vaswani et al.
2017), so that clips of any length can be read.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rstg_jax.rstg.region_graph import RegionGraph

EPSILON = 1e-5  # of layer norms, as in PyTorch
MLP = 4  # width of the hidden layer, in widths of a frame
SLOWEST = 1e4  # wavelength of the slowest sine over that of the fastest


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
        x = nn.Dense(self.dim, dtype=regions.dtype, name="project_in")(regions)
        x = x + sines(t, self.dim).astype(x.dtype)
        mask = nn.make_causal_mask(jnp.ones((1, t))) if self.causal else None
        for number in range(self.layers):
            x = EncoderLayer(self.num_heads, name=f"layer{number}")(x, mask)
        return nn.LayerNorm(EPSILON, name="norm")(x).astype(jnp.float32)


class EncoderLayer(nn.Module):
    """Attention between frames, then two linear layers; both are added to what they read.

    Attributes:
      num_heads: of the attention.
    """

    num_heads: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Tokens `[b t d]` -> the same shape; `mask` `[1 1 t t]` is 1 where a row may look."""
        dim, dtype = x.shape[-1], x.dtype
        attention = nn.MultiHeadDotProductAttention(self.num_heads, dtype=dtype, name="attention")
        x = x + attention(nn.LayerNorm(EPSILON, dtype=dtype, name="attention_norm")(x), mask=mask)
        hidden = nn.LayerNorm(EPSILON, dtype=dtype, name="mlp_norm")(x)
        hidden = nn.gelu(nn.Dense(MLP * dim, dtype=dtype, name="mlp_in")(hidden), approximate=False)
        return x + nn.Dense(dim, dtype=dtype, name="mlp_out")(hidden)


def sines(frames: int, dim: int) -> np.ndarray:
    """Positions in time, float32 `[frames dim]`: sines, then cosines, of falling frequency."""
    frequency = SLOWEST ** -np.linspace(0, 1, dim // 2, endpoint=False)
    angle = np.arange(frames)[:, None] * frequency
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)
