"""The small per-frame convolutional network of the SyncMNIST experiments."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.errors import UserError
from rstg_jax.layers.conv import Conv2D, Lowering, Padding, max_pool
from rstg_jax.layers.linear import dense_weights, linear
from rstg_jax.layers.norms import LayerNorm
from rstg_jax.models.backbones.base import After, Backbone, BackboneConfig
from rstg_jax.models.backbones.pixels import check_scale, normalise


@dataclasses.dataclass(frozen=True)
class SimpleCNNConfig(BackboneConfig):
    """Convolutions with ReLU; the defaults are the official network, 64x64 -> 6x6x512.

    Attributes:
      features: output channels of each convolution.
      kernels: their kernel sizes.
      strides: their strides.
      padding: "VALID" (official) or "SAME".
      max_pool: 2x2 max-pool after each convolution (official).
      norm: layer norm over channels after each ReLU.
      input_mean: subtracted from pixel values 0..255.
      input_scale: divides them after that; the official network takes raw values (0 and 1).
      subtract_mean_frame: subtract a clip's mean frame, which is mostly background, from every
        frame before the first convolution (needs the whole clip).
      position_embedding: add a learned map of channels to the last feature map and pass each pixel
        through one more layer, so that pooled regions keep the position of features inside them.
      lowering: see `Conv2D`.
    """

    features: tuple[int, ...] = (512, 512, 512)
    kernels: tuple[int, ...] = (3, 3, 3)
    strides: tuple[int, ...] = (1, 1, 1)
    padding: Padding = "VALID"
    max_pool: bool = True
    norm: bool = False
    input_mean: float = 0.0
    input_scale: float = 1.0
    subtract_mean_frame: bool = False
    position_embedding: bool = False
    lowering: Lowering = "auto"

    def __post_init__(self) -> None:
        lengths = {len(self.features), len(self.kernels), len(self.strides)}
        if lengths != {len(self.features)} or not self.features:
            raise UserError(
                "features, kernels and strides need one entry for each convolution; they "
                f"have {len(self.features)}, {len(self.kernels)} and {len(self.strides)}"
            )
        if min(*self.features, *self.kernels, *self.strides) < 1:
            raise UserError("features, kernels and strides must be at least 1")
        check_scale(self.input_scale)

    @property
    def places(self) -> tuple[str, ...]:
        """Names of the places behind each convolution (and its pool and norm), in order."""
        return tuple(f"conv{number}" for number in range(len(self.features)))

    @property
    def per_frame(self) -> bool:
        return not self.subtract_mean_frame

    def build(self, dtype: jnp.dtype, name: str) -> "SimpleCNN":
        return SimpleCNN(self, dtype, name=name)


class SimpleCNN(Backbone):
    """The same small network on every frame.

    Attributes:
      config: layers and input range.
    """

    config: SimpleCNNConfig

    def features(self, video: jax.Array, train: bool, after: After) -> jax.Array:
        """`[b t h w c]` pixels 0..255 -> features `[b t h' w' c']`."""
        del train
        config = self.config
        b, t, *frame = video.shape
        x = normalise(video, config, self.dtype)
        if config.subtract_mean_frame:
            x = x - x.mean(axis=1, keepdims=True)
        x = x.reshape(b * t, *frame)
        layers = zip(config.features, config.kernels, config.strides, strict=True)
        for number, (features, kernel, stride) in enumerate(layers):
            conv = Conv2D(features, kernel, stride, config.padding, config.lowering)
            x = nn.relu(conv.copy(name=f"conv{number}")(x))
            x = max_pool(x) if config.max_pool else x
            x = LayerNorm(name=f"norm{number}")(x) if config.norm else x
            if min(x.shape[1:3]) < 1:
                raise UserError(f"frames of {frame[0]}x{frame[1]} are too small")
            if f"conv{number}" in after:
                volume = after[f"conv{number}"](x.reshape(b, t, *x.shape[1:]))
                x = volume.reshape(x.shape)
        if config.position_embedding:
            init = nn.initializers.normal(0.3)
            x += self.param("position_embedding", init, x.shape[1:], jnp.float32).astype(x.dtype)
            mix = dense_weights(self, "mix", (x.shape[-1], x.shape[-1]), x.dtype)
            x = nn.relu(linear(x, *mix))
            x = LayerNorm(name="mix_norm")(x) if config.norm else x
        return x.reshape(b, t, *x.shape[1:])
