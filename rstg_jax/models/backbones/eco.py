"""ECO-Lite: BN-Inception's first blocks on every frame, then a ResNet over space and time.

    layer            channels  stride  -> of 16 frames of 224x224
    front (2D)             96                    16x28x28
    res3a, res3b          128       1            16x28x28
    res4a, res4b          256       2             8x14x14
    res5a, res5b          512       2              4x7x7

All kernels behind the front are 3x3x3. Norm and ReLU come before the convolutions, and shortcuts
begin before the norm. Convolutions whose sum is a shortcut have a bias.

Source: mzolfaghari/ECO-pytorch (Zolfaghari et al. 2018).
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.layers.conv import Conv3D, Lowering
from rstg_jax.layers.norms import BatchNorm
from rstg_jax.models.backbones import inception
from rstg_jax.models.backbones.base import After, Backbone, BackboneConfig
from rstg_jax.models.backbones.inception import FULL_WIDTH, MOMENTUM, InceptionConfig

# Unit -> channels and stride along all axes.
TAIL = {
    "res3a": (128, 1),
    "res3b": (128, 1),
    "res4a": (256, 2),
    "res4b": (256, 1),
    "res5a": (512, 2),
    "res5b": (512, 1),
}


@dataclasses.dataclass(frozen=True)
class ECOConfig(BackboneConfig):
    """ECO-Lite.

    Attributes:
      width: channels of the first convolution; those of the others change in proportion.
      statistics: batch norm with those of the "batch", or "frozen", gain and bias trained.
      input_mean: subtracted from RGB values 0..255. The authors' Caffe files have 123 instead of
        128 for red.
      lowering: see `Conv3D`.
    """

    width: int = FULL_WIDTH
    statistics: Literal["frozen", "batch"] = "batch"
    input_mean: tuple[float, ...] = (128.0, 117.0, 104.0)
    lowering: Lowering = "auto"

    def __post_init__(self) -> None:
        _ = self.front  # checks the fields

    @property
    def front(self) -> InceptionConfig:
        """The network on frames."""
        return inception.bn_inception(
            table="eco",
            width=self.width,
            statistics=self.statistics,
            input_mean=self.input_mean,
            lowering=self.lowering,
        )

    @property
    def places(self) -> tuple[str, ...]:
        """Names of the places behind mixed blocks and residual units, in order."""
        return (*self.front.places, *TAIL)

    def build(self, dtype: jnp.dtype, name: str) -> "ECO":
        return ECO(self, dtype, name=name)


class ECO(Backbone):
    """The network of an `ECOConfig`.

    Attributes:
      config: see there.
    """

    config: ECOConfig

    def features(self, video: jax.Array, train: bool, after: After) -> jax.Array:
        """`[b t h w c]` pixels 0..255 -> features `[b t' h' w' c']`."""
        config = self.config
        x = config.front.build(self.dtype, "front")(video, train=train, after=after)
        for place, (features, stride) in TAIL.items():
            channels = config.front.channels(features)
            if place == "res3a":
                x = conv(config, channels, "res3a", bias=True)(x)
            else:
                x = PreActivation(config, channels, stride, name=place)(x, train=train)
            x = after[place](x) if place in after else x
        return normed(config, x, "bn", train)


class PreActivation(nn.Module):
    """Two convolutions behind norm and ReLU, added to their input or a convolution of it."""

    config: ECOConfig
    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """`[b t h w c]` -> `[b t' h' w' features]`."""
        config, features = self.config, self.features
        y = normed(config, x, "bn1", train)
        if self.stride > 1:
            x = conv(config, features, "down", self.stride, bias=True)(y)
        y = conv(config, features, "conv1", self.stride)(y)
        y = normed(config, y, "bn2", train)
        return x + conv(config, features, "conv2", bias=True)(y)


def conv(
    config: ECOConfig, features: int, name: str, stride: int = 1, *, bias: bool = False
) -> Conv3D:
    """A 3x3x3 convolution."""
    return Conv3D(features, (3, 3, 3), (stride,) * 3, bias, lowering=config.lowering, name=name)


def normed(config: ECOConfig, x: jax.Array, name: str, train: bool) -> jax.Array:
    """Batch norm and ReLU."""
    norm = BatchNorm((0, 1, 2, 3), True, config.front.epsilon, MOMENTUM, name=name)
    return nn.relu(norm(x, train=train and config.statistics == "batch"))
