"""VideoPrism's encoder: a transformer on every frame, then one over the frames at every place.

Patches of 18x18 pixels and a learned table of places; behind the transformer on frames a norm and
a learned table of frames. Logits of all attention are capped. Tables fit clips of other sizes by
bilinear resampling. It reads pixels divided by 255.

Source: transformers' `VideoPrismVisionModel`, google-deepmind/videoprism (Zhao et al. 2024).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.errors import UserError
from rstg_jax.layers.norms import LayerNorm
from rstg_jax.layers.transformer import Block
from rstg_jax.models.backbones.base import After, Backbone, BackboneConfig
from rstg_jax.models.backbones.pixels import check_scale, normalise
from rstg_jax.models.backbones.vit import Tubelets


@dataclasses.dataclass(frozen=True)
class VideoPrismConfig(BackboneConfig):
    """VideoPrism; the default is B.

    Attributes:
      width: features of a token.
      spatial_depth: blocks on frames.
      temporal_depth: blocks over frames.
      num_heads: of their attention.
      mlp_dim: features inside their MLPs.
      patch: side of a patch in pixels.
      grid: frames, rows and columns of the tables of positions.
      logit_cap: see `rstg_jax.layers.transformer.Attention`.
      epsilon: of all norms.
      input_mean: subtracted from pixel values 0..255.
      input_scale: divides them after that.
    """

    width: int = 768
    spatial_depth: int = 12
    temporal_depth: int = 4
    num_heads: int = 12
    mlp_dim: int = 3072
    patch: int = 18
    grid: tuple[int, int, int] = (16, 16, 16)
    logit_cap: float = 50.0
    epsilon: float = 1e-6
    input_mean: float = 0.0
    input_scale: float = 255.0

    def __post_init__(self) -> None:
        if min(self.width, self.num_heads, self.mlp_dim, self.patch, *self.grid) < 1:
            raise UserError("width, num_heads, mlp_dim, patch and grid must be at least 1")
        if self.width % self.num_heads:
            raise UserError(f"width={self.width} is no multiple of num_heads={self.num_heads}")
        check_scale(self.input_scale)

    @property
    def places(self) -> tuple[str, ...]:
        """Names of the places behind each block, such as "spatial11" and "temporal3", in order."""
        depths = {"spatial": self.spatial_depth, "temporal": self.temporal_depth}
        return tuple(f"{kind}{i}" for kind, depth in depths.items() for i in range(depth))

    def build(self, dtype: jnp.dtype, name: str) -> "VideoPrism":
        return VideoPrism(self, dtype, name=name)


def base(**fields: Any) -> VideoPrismConfig:
    """VideoPrism-B, for 16 frames of 288x288."""
    return VideoPrismConfig(**fields)


def large(**fields: Any) -> VideoPrismConfig:
    """VideoPrism-L, for 8 frames of 288x288."""
    settings = {"width": 1024, "spatial_depth": 24, "num_heads": 16, "mlp_dim": 4096}
    return VideoPrismConfig(**settings | {"grid": (8, 16, 16)} | fields)


class VideoPrism(Backbone):
    """The network of a `VideoPrismConfig`.

    Attributes:
      config: see there.
    """

    config: VideoPrismConfig

    def features(self, video: jax.Array, train: bool, after: After) -> jax.Array:
        """`[b t h w c]` pixels 0..255 -> features `[b t h' w' width]`.

        Raises:
          UserError: sides of the frames are no multiples of `patch`.
        """
        del train
        config = self.config
        size = (1, config.patch, config.patch)
        x = normalise(video, config, self.dtype)
        x = Tubelets(config.width, size, name="embed")(x)
        b, t, h, w, width = x.shape

        x = x + self.table("spatial_positions", config.grid[1:], (h, w)).astype(x.dtype)
        x = x.reshape(b * t, h * w, width)
        for place in config.places[: config.spatial_depth]:
            x = self.block(place, x)
            if place in after:
                x = after[place](x.reshape(b, t, h, w, width)).reshape(x.shape)
        x = LayerNorm(epsilon=config.epsilon, name="spatial_norm")(x)

        x = x.reshape(b, t, h * w, width).swapaxes(1, 2).reshape(b * h * w, t, width)
        x = x + self.table("temporal_positions", config.grid[:1], (t,)).astype(x.dtype)
        for place in config.places[config.spatial_depth :]:
            x = self.block(place, x)
            if place in after:
                volume = after[place](by_frames(x, (b, t, h, w)))
                x = volume.reshape(b, t, h * w, width).swapaxes(1, 2).reshape(x.shape)
        x = LayerNorm(epsilon=config.epsilon, name="temporal_norm")(x)
        return by_frames(x, (b, t, h, w))

    def block(self, place: str, x: jax.Array) -> jax.Array:
        """One block, with the name of its place."""
        config = self.config
        block = Block(
            config.num_heads,
            config.mlp_dim,
            config.epsilon,
            logit_cap=config.logit_cap,
            name=place,
        )
        return block(x)

    def table(self, name: str, grid: tuple[int, ...], size: tuple[int, ...]) -> jax.Array:
        """A learned table of positions on a grid, resampled: `[*size width]`."""
        width = self.config.width
        tokens = grid[0] if len(grid) == 1 else grid[0] * grid[1]
        rows = self.param(name, nn.initializers.normal(0.02), (tokens, width), jnp.float32)
        return jax.image.resize(rows.reshape(*grid, width), (*size, width), "bilinear")


def by_frames(x: jax.Array, shape: tuple[int, int, int, int]) -> jax.Array:
    """Tokens of each place over frames, `[b*h*w t c]`, to a feature map `[b t h w c]`."""
    b, t, h, w = shape
    return x.reshape(b, h * w, t, -1).swapaxes(1, 2).reshape(b, t, h, w, -1)
