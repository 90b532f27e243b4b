"""Heads of video transformers, which read the last map of the whole clip at once."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.layers.norms import LayerNorm
from rstg_jax.layers.transformer import Block, CrossBlock


class NormedPool(nn.Module):
    """The module of a `NormedPooling`.

    Attributes:
      epsilon: of the norm.
    """

    epsilon: float

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool = False) -> jax.Array:
        """Features `[b t h w c]` -> `[b 1 c]`, float32."""
        mean = features.astype(jnp.float32).mean(axis=(1, 2, 3))
        return LayerNorm(epsilon=self.epsilon, name="norm")(mean)[:, None]


class AttentivePool(nn.Module):
    """The module of an `AttentivePooling`.

    Attributes: see there.
    """

    layers: int
    num_heads: int
    mlp_ratio: float
    epsilon: float

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool = False) -> jax.Array:
        """Features `[b t h w c]` -> `[b 1 c]`, float32."""
        b, *_, width = features.shape
        x, mlp_dim = features.reshape(b, -1, width), int(self.mlp_ratio * width)
        for number in range(self.layers):
            block = Block(self.num_heads, mlp_dim, self.epsilon, name=f"block{number}")
            x = block(x)
        init = nn.initializers.truncated_normal(0.02)  # as released
        query = self.param("query", init, (width,)).astype(x.dtype)
        queries = jnp.broadcast_to(query, (b, 1, width))
        cross = CrossBlock(self.num_heads, mlp_dim, self.epsilon, name="cross")
        return cross(queries, x).astype(jnp.float32)
