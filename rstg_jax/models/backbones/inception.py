"""Inception networks on frames and over space and time: BN-Inception, I3D, S3D, S3D-G.

One definition for all of them: a table of layers (`inception_tables.py`), and fields for what the
published networks do differently. `i3d`, `s3d`, `s3dg`, `howto100m` and `bn_inception` are these
networks.

Every convolution is followed by batch norm and ReLU. Those of BN-Inception also have a bias, which
the mean of the norm takes up when their weights are converted.

Sources: deepmind/kinetics-i3d (`i3d`), torchvision's S3D (`s3d`), tensorflow/models, research/slim
(`s3dg`), antoine77340/S3D_HowTo100M (`howto100m`), yjxiong/tensorflow-model-zoo.torch
(`bn_inception`).
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.errors import UserError
from rstg_jax.layers.conv import HE_FAN_OUT, Conv3D, Lowering, Padding3D, Pads, max_pool3d
from rstg_jax.layers.norms import BatchNorm
from rstg_jax.models.backbones.base import After, Backbone, BackboneConfig
from rstg_jax.models.backbones.inception_tables import (
    FULL_WIDTH,
    TABLES,
    Conv,
    Mixed,
    Pool,
    Row,
    Size,
)
from rstg_jax.models.backbones.pixels import check_scale, normalise

PoolPadding = Literal["same", "half", "behind", "none"]
MOMENTUM = 0.99  # of moving statistics; ours: the sources have 0.999 and run for far more steps


@dataclasses.dataclass(frozen=True)
class InceptionConfig(BackboneConfig):
    """A table of layers and its variants; the defaults are Inception I3D.

    Attributes:
      table: "v1" (GoogLeNet's widths), "v2" (BN-Inception's), or "eco" (the part of it in ECO).
      width: channels of the first convolution; those of the others change in proportion.
      kernels: "full" over space and time, "separable" (rows and columns, then frames), or on
        single "frames", which are then never pooled.
      stem_kernel: frames, rows and columns of the first kernel, which is then never separable;
        if None it is 7 along the axes of the others.
      space_to_depth: make 2x2x2 pixels the channels of one, and the first stride 1.
      temporal_norm: batch norm between the frames' part of a separable convolution and its ReLU;
        without it there is a bias, and the kernel starts as the identity (slim).
      gate: multiply the map behind conv2c and each branch by a gate, which is the sigmoid of a
        linear function of the map's mean (S3D-G).
      gate_bias: whether that function has a bias.
      padding: of convolutions, see `Conv3D`.
      pool_padding: of max-pools with a stride: TensorFlow's "same"; "half" a window, rounded down;
        only "behind", until the pool has half as many outputs; or only where the last window
        overhangs ("none", PyTorch's ceil mode). On even sides all but "half" are the same.
      time_window: frames of the last map that are averaged, at every frame; 2 is the published
        7x7 pool of I3D and S3D over 2 frames.
      epsilon: of batch norm.
      statistics: batch norm with those of the "batch", or "frozen", gain and bias trained.
      input_mean: subtracted from RGB values 0..255; one number a channel, or one for all.
      input_scale: divides them after that.
      lowering: see `Conv3D`.
    """

    table: Literal["v1", "v2", "eco"] = "v1"
    width: int = FULL_WIDTH
    kernels: Literal["full", "separable", "frames"] = "full"
    stem_kernel: Size | None = None
    space_to_depth: bool = False
    temporal_norm: bool = True
    gate: bool = False
    gate_bias: bool = False
    padding: Padding3D = "same"
    pool_padding: PoolPadding = "same"
    time_window: int = 2
    epsilon: float = 1e-3
    statistics: Literal["frozen", "batch"] = "batch"
    input_mean: tuple[float, ...] = (127.5,)
    input_scale: tuple[float, ...] = (127.5,)
    lowering: Lowering = "auto"

    def __post_init__(self) -> None:
        if min((self.width, self.time_window, *(self.stem_kernel or ()))) < 1:
            raise UserError("width, time_window and stem_kernel must be at least 1")
        check_scale(*self.input_scale)

    @property
    def rows(self) -> dict[str, Row]:
        """The layers by name, in order."""
        return TABLES[self.table]

    @property
    def places(self) -> tuple[str, ...]:
        """Names of the places behind the mixed blocks, such as "mixed3c", in order."""
        return tuple(name for name, row in self.rows.items() if isinstance(row, Mixed))

    def build(self, dtype: jnp.dtype, name: str) -> "Inception":
        return Inception(self, dtype, name=name)

    def channels(self, features: int) -> int:
        """Channels of a layer that has `features` in the table."""
        return max(1, features * self.width // FULL_WIDTH)

    def size(self, size: Size) -> Size:
        """A window or stride of the table in this network."""
        return (1, *size[1:]) if self.kernels == "frames" else size


def i3d(**fields: Any) -> InceptionConfig:
    """DeepMind's Inception I3D; `fields` replace single choices."""
    return InceptionConfig(**fields)


def s3d(**fields: Any) -> InceptionConfig:
    """Torchvision's S3D: separable throughout, no gates."""
    settings: dict[str, Any] = {
        "kernels": "separable",
        "padding": "half",
        "pool_padding": "half",
        "input_mean": (110.2008, 100.63983, 95.99475),
        "input_scale": (58.14765, 56.46975, 55.332195),
    }
    return InceptionConfig(**settings | fields)


def s3dg(**fields: Any) -> InceptionConfig:
    """S3D-G as its authors released it in slim; the input range is not stated there."""
    settings: dict[str, Any] = {
        "kernels": "separable",
        "stem_kernel": (3, 7, 7),
        "temporal_norm": False,
        "gate": True,
    }
    return InceptionConfig(**settings | fields)


def howto100m(**fields: Any) -> InceptionConfig:
    """S3D-G of the HowTo100M weights, on pixels made channels."""
    settings: dict[str, Any] = {
        "kernels": "separable",
        "stem_kernel": (2, 4, 4),
        "space_to_depth": True,
        "gate": True,
        "gate_bias": True,
        "padding": "half",
        "pool_padding": "behind",
        "time_window": 1,
        "epsilon": 1e-5,
        "input_mean": (0.0,),
        "input_scale": (255.0,),
    }
    return InceptionConfig(**settings | fields)


def bn_inception(**fields: Any) -> InceptionConfig:
    """BN-Inception of Caffe on every frame, as in TSN and TRN."""
    settings: dict[str, Any] = {
        "table": "v2",
        "kernels": "frames",
        "padding": "half",
        "pool_padding": "none",
        "time_window": 1,
        "epsilon": 1e-5,
        "input_mean": (128.0, 117.0, 104.0),
        "input_scale": (1.0,),
    }
    return InceptionConfig(**settings | fields)


class Inception(Backbone):
    """The network of an `InceptionConfig`.

    Attributes:
      config: the table of layers and its variants.
    """

    config: InceptionConfig

    def features(self, video: jax.Array, train: bool, after: After) -> jax.Array:
        """`[b t h w c]` pixels 0..255 -> features `[b t' h' w' c']`."""
        config = self.config
        x = normalise(video, config, self.dtype)
        x = space_to_depth(x) if config.space_to_depth else x
        for name, row in config.rows.items():
            if isinstance(row, Pool):
                x = pool(x, config, config.size(row.window), config.size(row.stride))
            elif isinstance(row, Mixed):
                x = MixedBlock(config, row, name=name)(x, train=train)
            elif name == "conv1a" and config.stem_kernel:
                stride = (1, 1, 1) if config.space_to_depth else (2, 2, 2)
                unit = Unit(config, row.features, config.stem_kernel, stride, name=name)
                x = unit(x, train=train)
            else:
                x = unit_of(config, row, name)(x, train=train)
            x = gated(x, config, "conv2c_gate") if name == "conv2c" and config.gate else x
            x = after[name](x) if name in after else x
        if x.shape[1] < config.time_window:
            raise UserError(
                f"time_window={config.time_window}, the last map has {x.shape[1]} frame"
            )
        return nn.avg_pool(x, (config.time_window, 1, 1)) if config.time_window > 1 else x


class Unit(nn.Module):
    """A convolution, or a separable pair of them, with batch norm and ReLU."""

    config: InceptionConfig
    features: int
    kernel: Size
    stride: Size = (1, 1, 1)
    separable: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """`[b t h w c]` -> `[b t' h' w' features]`."""
        kernel, stride = self.kernel, self.stride
        if not self.separable:
            return self.part(x, "", kernel, stride, train)
        x = self.part(x, "", (1, *kernel[1:]), (1, *stride[1:]), train)
        return self.part(x, "_time", (kernel[0], 1, 1), (stride[0], 1, 1), train)

    def part(self, x: jax.Array, suffix: str, kernel: Size, stride: Size, train: bool) -> jax.Array:
        """One convolution with its norm and ReLU."""
        config = self.config
        has_norm = config.temporal_norm or not suffix
        conv = Conv3D(
            config.channels(self.features),
            kernel,
            stride,
            bias=not has_norm,
            padding=config.padding,
            kernel_init=HE_FAN_OUT if has_norm else identity,
            lowering=config.lowering,
            name=f"conv{suffix}",
        )
        x = conv(x)
        if has_norm:
            axes = (0, 1, 2, 3)
            norm = BatchNorm(axes, True, config.epsilon, MOMENTUM, name=f"bn{suffix}")
            x = norm(x, train=train and config.statistics == "batch")
        return nn.relu(x)


def unit_of(config: InceptionConfig, row: Conv, name: str) -> Unit:
    """The convolution of a row; as in its sources, 1x1x1 ones are never separable."""
    kernel, stride = (config.size((size,) * 3) for size in (row.size, row.stride))
    separable = config.kernels == "separable" and row.size > 1
    return Unit(config, row.features, kernel, stride, separable, name=name)


class MixedBlock(nn.Module):
    """Four branches whose channels are concatenated."""

    config: InceptionConfig
    row: Mixed

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """`[b t h w c]` -> `[b t' h' w' c']`."""
        config, row = self.config, self.row
        outputs = []
        for number, widths in enumerate(row.branches):
            is_pool = number == len(row.branches) - 1
            if not widths and not is_pool:
                continue
            y = self.pooled(x) if is_pool else x
            for depth, width in enumerate(widths):
                is_strided = not is_pool and depth == len(widths) - 1
                conv = Conv(width, 3 if depth else 1, row.stride if is_strided else 1)
                y = unit_of(config, conv, f"branch{number}_{depth}")(y, train=train)
            outputs.append(gated(y, config, f"gate{number}") if config.gate else y)
        if len({y.shape[1:4] for y in outputs}) > 1:
            side = "x".join(map(str, x.shape[2:4]))
            raise UserError(f"{self.name} reads a map of {side}: both must be even; crop to 224")
        return jnp.concatenate(outputs, axis=-1)

    def pooled(self, x: jax.Array) -> jax.Array:
        """The pool of the last branch; averages count zeros outside the map."""
        window, stride = (self.config.size((size,) * 3) for size in (3, self.row.stride))
        if self.row.pool == "max":
            return pool(x, self.config, window, stride)
        pads = pool_pads("half", x.shape[1:4], window, stride)
        return nn.avg_pool(x, window, stride, tuple(pads))


def pool(x: jax.Array, config: InceptionConfig, window: Size, stride: Size) -> jax.Array:
    """Max-pool of `[b t h w c]`."""
    rule: PoolPadding = config.pool_padding if max(stride) > 1 else "half"
    return max_pool3d(x, window, stride, pool_pads(rule, x.shape[1:4], window, stride))


def pool_pads(rule: PoolPadding, shape: tuple[int, ...], window: Size, stride: Size) -> Pads:
    """Padding before and behind along each axis, see `InceptionConfig.pool_padding`."""
    if rule == "half":
        return [((size - 1) // 2, (size - 1) // 2) for size in window]
    if rule == "same":
        return jax.lax.padtype_to_pads(shape, window, stride, "SAME")
    pads = []
    for side, size, step in zip(shape, window, stride, strict=True):
        outputs = -(-(side - size) // step) + 1 if rule == "none" else -(-side // step)
        pads.append((0, max((outputs - 1) * step + size - side, 0)))
    return pads


def gated(x: jax.Array, config: InceptionConfig, name: str) -> jax.Array:
    """Multiplies `[b t h w c]` by a gate for each channel of the clip."""
    init = nn.initializers.truncated_normal(0.01)
    dense = nn.Dense(x.shape[-1], use_bias=config.gate_bias, kernel_init=init, name=name)
    gate = nn.sigmoid(dense(x.astype(jnp.float32).mean(axis=(1, 2, 3), keepdims=True)))
    return x * gate.astype(x.dtype)


def space_to_depth(x: jax.Array) -> jax.Array:
    """`[b t h w c]` -> `[b t/2 h/2 w/2 8c]`, channels in order of frame, row, column, colour.

    Raises:
      UserError: the clip has an odd side.
    """
    b, t, h, w, c = x.shape
    if t % 2 or h % 2 or w % 2:
        raise UserError(f"space_to_depth needs even sides, the clip is {t}x{h}x{w}")
    x = x.reshape(b, t // 2, 2, h // 2, 2, w // 2, 2, c)
    return jnp.einsum("btihjwkc->bthwijkc", x).reshape(b, t // 2, h // 2, w // 2, 8 * c)


def identity(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """The kernel over frames that passes every channel on as it is."""
    del key
    return jnp.zeros(shape, dtype).at[shape[0] // 2, 0, 0].set(jnp.eye(shape[3], dtype=dtype))
