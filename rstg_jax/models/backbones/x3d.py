"""X3D: thin bottlenecks with depthwise convolutions over space and time.

    stage  blocks of S and M, of L  channels  stride  -> of 16 frames of 224x224
    conv1                                 24   1 2 2            16x112x112
    res2                 3       5        24   1 2 2              16x56x56
    res3                 5      10        48   1 2 2              16x28x28
    res4                11      25        96   1 2 2              16x14x14
    res5                 7      15       192   1 2 2                16x7x7
    conv5                                432     1                  16x7x7

Every second block, from the first of its stage on, multiplies its channels by gates (squeeze and
excitation). No stride is over frames.

Source: PyTorchVideo's `create_x3d` and PySlowFast's `X3D` (Feichtenhofer 2020), which differ in one
norm: the shortcut of res2.0, to as many channels, has one in PySlowFast alone.
"""

import dataclasses
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.errors import UserError
from rstg_jax.layers.conv import Conv3D, Depthwise, Lowering
from rstg_jax.models.backbones.base import After, Backbone, BackboneConfig
from rstg_jax.models.backbones.pixels import (
    OFFICIAL_MEAN,
    OFFICIAL_SCALE,
    check_scale,
    normalise,
)
from rstg_jax.models.backbones.resnet3d import norm

INNER = 2.25  # channels inside a block for each outside
SQUEEZE = 16  # channels for each in the middle of a gate


@dataclasses.dataclass(frozen=True)
class X3DConfig(BackboneConfig):
    """X3D; the default is S and M, which differ in their clips.

    Attributes:
      depths: blocks of each stage; those of X3D-L are (5, 10, 25, 15).
      width: channels of conv1; each stage has twice those of the one before.
      shortcut_norms: of the convolutions in shortcuts, "all" have a norm (PySlowFast), or those to
        more channels, "wider" (PyTorchVideo).
      statistics: batch norm with those of the "batch", or "frozen", gain and bias trained.
      input_mean: subtracted from pixel values 0..255.
      input_scale: divides them after that.
      lowering: see `Conv3D`.
    """

    depths: tuple[int, ...] = (3, 5, 11, 7)
    width: int = 24
    shortcut_norms: Literal["wider", "all"] = "wider"
    statistics: Literal["frozen", "batch"] = "batch"
    input_mean: tuple[float, ...] = OFFICIAL_MEAN
    input_scale: tuple[float, ...] = OFFICIAL_SCALE
    lowering: Lowering = "auto"

    def __post_init__(self) -> None:
        if min((*self.depths, self.width)) < 1:
            raise UserError("depths and width must be at least 1")
        check_scale(*self.input_scale)

    @property
    def places(self) -> tuple[str, ...]:
        """Names of all places behind a block, such as "res3.2", in order."""
        return tuple(f"res{stage}.{block}" for stage, block in self.blocks())

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Yields `(stage, block)`, stages counted from 2 and blocks from 0."""
        for stage, depth in enumerate(self.depths, start=2):
            for block in range(depth):
                yield stage, block

    def channels(self, stage: int) -> tuple[int, int]:
        """Channels outside and inside the blocks of a stage."""
        outer = self.width * 2 ** (stage - 2)
        return outer, int(INNER * outer)

    def build(self, dtype: jnp.dtype, name: str) -> "X3D":
        return X3D(self, dtype, name=name)


class X3D(Backbone):
    """The network of an `X3DConfig`.

    Attributes:
      config: see there.
    """

    config: X3DConfig

    def features(self, video: jax.Array, train: bool, after: After) -> jax.Array:
        """`[b t h w c]` pixels 0..255 -> features `[b t h' w' c']`."""
        config = self.config
        x = normalise(video, config, self.dtype)
        lowering = config.lowering
        x = Conv3D(config.width, (1, 3, 3), (1, 2, 2), lowering=lowering, name="conv1")(x)
        x = Depthwise((5, 1, 1), name="conv1_time")(x)
        x = nn.relu(norm(config, "conv1_bn")(x, train=train))
        for stage, block in config.blocks():
            place = f"res{stage}.{block}"
            x = Bottleneck(config, stage, block, name=f"res{stage}_{block}")(x, train=train)
            x = after[place](x) if place in after else x
        inner = config.channels(len(config.depths) + 1)[1]
        x = Conv3D(inner, lowering=lowering, name="conv5")(x)
        return nn.relu(norm(config, "conv5_bn")(x, train=train))


class Bottleneck(nn.Module):
    """1x1x1, depthwise 3x3x3 and 1x1x1 convolutions around a shortcut."""

    config: X3DConfig
    stage: int
    block: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """`[b t h w c]` -> `[b t h' w' c']`."""
        config, lowering = self.config, self.config.lowering
        outer, inner = config.channels(self.stage)
        stride = (1, 2, 2) if self.block == 0 else (1, 1, 1)
        y = Conv3D(inner, lowering=lowering, name="conv1")(x)
        y = nn.relu(norm(config, "bn1")(y, train=train))
        y = norm(config, "bn2")(Depthwise((3, 3, 3), stride, name="conv2")(y), train=train)
        y = gated(y) if self.block % 2 == 0 else y
        y = Conv3D(outer, lowering=lowering, name="conv3")(nn.swish(y))
        y = norm(config, "bn3")(y, train=train)
        normed = x.shape[-1] != outer or config.shortcut_norms == "all"
        if self.block == 0:
            x = Conv3D(outer, stride=stride, lowering=lowering, name="shortcut")(x)
            x = norm(config, "shortcut_bn")(x, train=train) if normed else x
        return nn.relu(x + y)


def gated(x: jax.Array) -> jax.Array:
    """Multiplies the channels of `[b t h w c]` by gates; to be called inside a compact method."""
    squeezed = nn.Dense(in_eights(x.shape[-1] / SQUEEZE), name="squeeze")
    means = x.astype(jnp.float32).mean(axis=(1, 2, 3), keepdims=True)
    gate = nn.sigmoid(nn.Dense(x.shape[-1], name="excite")(nn.relu(squeezed(means))))
    return x * gate.astype(x.dtype)


def in_eights(channels: float) -> int:
    """Rounds to a positive multiple of 8 that is at least 0.9 times as large."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
