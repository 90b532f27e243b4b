"""Convolutions over space and time behind a backbone of single frames: a small I3D as a head."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.errors import UserError
from rstg_jax.models.backbones.resnet3d import Bottleneck, NonLocal, ResNet3DConfig
from rstg_jax.models.heads.base import FinalBlock, HeadConfig


@dataclasses.dataclass(frozen=True)
class ResNet3DHead(HeadConfig):
    """Bottleneck blocks of I3D on the last map, then its mean over pixels in every frame.

    So that baselines without a graph can stand behind the same backbone as the networks with one.

    Attributes:
      blocks: number of them; each reads 3 frames and 3x3 pixels.
      width: channels inside of a block, which gives four times as many.
      non_local: blocks, counted from 0, that a non-local block follows.
    """

    final_block: ClassVar[FinalBlock] = "unused"

    blocks: int = 4
    width: int = 32
    non_local: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if min(self.blocks, self.width) < 1:
            raise UserError("ResNet3DHead needs blocks and width of at least 1")
        if missing := [block for block in self.non_local if not 0 <= block < self.blocks]:
            raise UserError(f"non_local={missing[0]}: the head has blocks 0 to {self.blocks - 1}")

    @property
    def convolves(self) -> bool:
        return True

    def build(self, name: str) -> "ResNet3DLayers":
        return ResNet3DLayers(self, name=name)


class ResNet3DLayers(nn.Module):
    """The module of a `ResNet3DHead`."""

    config: ResNet3DHead

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool = False) -> jax.Array:
        """Features `[b t h w c]` -> `[b t 4*width]`, float32."""
        config = self.config
        table = ResNet3DConfig(
            depths=(config.blocks,),
            width=config.width,
            temporal_kernels=((3,),),
            spatial_strides=(1,),
            temporal_strides=(1,),
            statistics="batch",
        )
        x = features
        for block in range(config.blocks):
            x = Bottleneck(table, stage=2, block=block, name=f"block{block}")(x, train=train)
            if block in config.non_local:
                x = NonLocal(table, name=f"block{block}_nonlocal")(x, train=train)
        return x.astype(jnp.float32).mean(axis=(2, 3))
