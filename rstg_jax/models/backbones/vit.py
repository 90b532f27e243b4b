"""Plain vision transformers on tubelets: the encoders of VideoMAE and V-JEPA 2.

A clip is cut into boxes of 2 frames by 16x16 pixels, whose pixels become tokens by one linear
layer; 16 frames of 224x224 are 8x14x14 tokens. All blocks have the same width, and the tokens stay
on their grid: a feature map.

            positions                          biases of queries, keys, values   last norm
VideoMAE    sine table of the token's number   yes, no, yes                      pretrained: yes
V-JEPA 2    queries and keys turned by angles  yes, yes, yes                     yes
            of frame, row and column

Fine-tuned VideoMAE norms the mean of all tokens in place of the tokens (`NormedPooling`); the probe
of V-JEPA 2 is `AttentivePooling`.

Source: transformers' `VideoMAEModel` and `VJEPA2Model` (Tong et al. 2022, Assran et al. 2025).
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.errors import UserError
from rstg_jax.layers.linear import linear
from rstg_jax.layers.norms import LayerNorm
from rstg_jax.layers.transformer import Block, rotary_table, sine_table
from rstg_jax.models.backbones.base import After, Backbone, BackboneConfig
from rstg_jax.models.backbones.pixels import (
    IMAGENET_MEAN,
    IMAGENET_SCALE,
    check_scale,
    normalise,
)

Size = Literal["s", "b", "l", "h", "g"]
# width, depth, num_heads, mlp_dim. transformers' conversion gave VideoMAE's S 16 heads, not 6.
SIZES: dict[Size, tuple[int, int, int, int]] = {
    "s": (384, 12, 6, 1536),
    "b": (768, 12, 12, 3072),
    "l": (1024, 24, 16, 4096),
    "h": (1280, 32, 16, 5120),
    "g": (1408, 40, 22, 6144),
}


@dataclasses.dataclass(frozen=True)
class ViTConfig(BackboneConfig):
    """A vision transformer; the default is the fine-tuned VideoMAE-B.

    Attributes:
      width: features of a token.
      depth: number of blocks.
      num_heads: of their attention.
      mlp_dim: features inside their MLPs.
      tubelet: frames, rows and columns of a token.
      positions: "sine" adds a table of sines of the token's number, so that weights fit clips of
        the size that they were trained with; "rotary" turns queries and keys by angles of frame,
        row and column, for clips of any size.
      key_bias: whether keys have a bias.
      epsilon: of all norms.
      final_norm: whether there is a norm behind the last block.
      input_mean: subtracted from pixel values 0..255.
      input_scale: divides them after that.
    """

    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    tubelet: tuple[int, int, int] = (2, 16, 16)
    positions: Literal["sine", "rotary"] = "sine"
    key_bias: bool = False
    epsilon: float = 1e-12
    final_norm: bool = False
    input_mean: tuple[float, ...] = IMAGENET_MEAN
    input_scale: tuple[float, ...] = IMAGENET_SCALE

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.num_heads, self.mlp_dim, *self.tubelet) < 1:
            raise UserError("width, depth, num_heads, mlp_dim and tubelet must be at least 1")
        if self.width % self.num_heads:
            raise UserError(f"width={self.width} is no multiple of num_heads={self.num_heads}")
        if self.positions == "rotary" and self.width // self.num_heads % 2:
            raise UserError('positions="rotary" needs an even number of features in every head')
        check_scale(*self.input_scale)

    @property
    def places(self) -> tuple[str, ...]:
        """Names of the places behind each block, such as "block11", in order."""
        return tuple(f"block{number}" for number in range(self.depth))

    def build(self, dtype: jnp.dtype, name: str) -> "ViT":
        return ViT(self, dtype, name=name)


def _sized(size: Size) -> dict[str, Any]:
    keys = ("width", "depth", "num_heads", "mlp_dim")
    return dict(zip(keys, SIZES[size], strict=True))


def videomae(size: Size = "b", **fields: Any) -> ViTConfig:
    """VideoMAE as fine-tuned; the pretrained encoder has a `final_norm`."""
    return ViTConfig(**_sized(size) | fields)


def vjepa2(size: Size = "l", **fields: Any) -> ViTConfig:
    """The encoder of V-JEPA 2."""
    settings = {"positions": "rotary", "key_bias": True, "epsilon": 1e-6, "final_norm": True}
    return ViTConfig(**_sized(size) | settings | fields)


class ViT(Backbone):
    """The network of a `ViTConfig`.

    Attributes:
      config: see there.
    """

    config: ViTConfig

    def features(self, video: jax.Array, train: bool, after: After) -> jax.Array:
        """`[b t h w c]` pixels 0..255 -> features `[b t' h' w' width]`, one for each tubelet.

        Raises:
          UserError: the clip is no whole number of tubelets.
        """
        del train
        config = self.config
        x = Tubelets(config.width, config.tubelet, name="embed")(
            normalise(video, config, self.dtype)
        )
        shape, (b, *grid, width) = x.shape, x.shape
        x = x.reshape(b, -1, width)
        rotary = None
        if config.positions == "sine":
            x = x + jnp.asarray(sine_table(x.shape[1], width), x.dtype)
        else:
            t, h, w = grid
            rotary = rotary_table((t, h, w), width // config.num_heads)
        for place in config.places:
            block = Block(
                config.num_heads, config.mlp_dim, config.epsilon, config.key_bias, name=place
            )
            x = block(x, rotary)
            if place in after:
                x = after[place](x.reshape(shape)).reshape(x.shape)
        x = LayerNorm(epsilon=config.epsilon, name="norm")(x) if config.final_norm else x
        return x.reshape(shape)


class Tubelets(nn.Module):
    """A linear layer from the pixels of each tubelet: a convolution whose stride is its kernel.

    Attributes:
      width: features of the result.
      size: frames, rows and columns of a tubelet.
    """

    width: int
    size: tuple[int, int, int]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b t h w c]` -> `[b t/size h/size w/size width]`."""
        b, t, h, w, c = x.shape
        f, r, s = self.size
        if t % f or h % r or w % s:
            raise UserError(
                f"clips of {t} frames of {h}x{w} are no whole number of tubelets of {f} frames of "
                f"{r}x{s}"
            )
        shape = (f, r, s, c, self.width)
        init = nn.initializers.lecun_normal(in_axis=(0, 1, 2, 3))
        kernel = self.param("kernel", init, shape, jnp.float32).astype(x.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.width,), jnp.float32).astype(x.dtype)
        x = x.reshape(b, t // f, f, h // r, r, w // s, s, c)
        x = jnp.einsum("btfhrwsc->bthwfrsc", x).reshape(b, t // f, h // r, w // s, -1)
        return linear(x, kernel.reshape(math.prod(shape[:-1]), self.width), bias)
