"""The head of V-JEPA 2: attention over all pixels of the clip."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.errors import UserError
from rstg_jax.layers.transformer import Block, CrossBlock
from rstg_jax.models.heads.base import FinalBlock, HeadConfig


@dataclasses.dataclass(frozen=True)
class AttentivePooling(HeadConfig):
    """Self-attention of all pixels of the clip, then attention of one learned query (V-JEPA 2).

    Attributes:
      layers: blocks of self-attention.
      num_heads: of all attention.
      mlp_ratio: features inside the MLPs for each outside.
      epsilon: of the norms.
    """

    final_block: ClassVar[FinalBlock] = "vector"

    layers: int = 3
    num_heads: int = 16
    mlp_ratio: float = 4.0
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        if self.layers < 0 or self.num_heads < 1 or self.mlp_ratio <= 0:
            raise UserError("AttentivePooling needs num_heads of at least 1, mlp_ratio above 0")

    def build(self, name: str) -> "AttentivePool":
        return AttentivePool(self, name=name)


class AttentivePool(nn.Module):
    """The module of an `AttentivePooling`."""

    config: AttentivePooling

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool = False) -> jax.Array:
        """Features `[b t h w c]` -> `[b 1 c]`, float32."""
        config = self.config
        b, *_, width = features.shape
        x, mlp_dim = features.reshape(b, -1, width), int(config.mlp_ratio * width)
        for number in range(config.layers):
            block = Block(config.num_heads, mlp_dim, config.epsilon, name=f"block{number}")
            x = block(x)
        init = nn.initializers.truncated_normal(0.02)  # as released
        query = self.param("query", init, (width,), jnp.float32).astype(x.dtype)
        queries = jnp.broadcast_to(query, (b, 1, width))
        cross = CrossBlock(config.num_heads, mlp_dim, config.epsilon, name="cross")
        return cross(queries, x).astype(jnp.float32)
