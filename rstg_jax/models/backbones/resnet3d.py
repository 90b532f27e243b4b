"""ResNets over space and time: C2D, TSM, inflated I3D, with non-local or motion blocks.

One definition for all of them. The default configuration is the official I3D-R50 as a table, for
32 frames of 224x224:

    stage   blocks  inner  outer  temporal kernels  stride  ->  frames  side
    conv1                     64  5 (x 7 x 7)       1 2 2           32   112
    pool1                                           1 2 2           32    55
    res2         3     64    256  3 3 3             1 1 1           32    55
    pool2                                           2 1 1           16    55
    res3         4    128    512  3 1 3 1           1 2 2           16    28
    res4         6    256   1024  3 1 3 1 3 1       1 2 2           16    14
    res5         3    512   2048  1 3 1             1 1 1           16    14

Sources: the official release (`official`), PyTorchVideo and SlowFast (`kinetics`, `slow_only`),
torchvision's ResNet on every frame (`imagenet`), mit-han-lab/temporal-shift-module (`tsm`). Inside
a block the first 1x1 convolution has the temporal kernel and the 3x3 one the stride.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.errors import UserError
from rstg_jax.layers.conv import Conv3D, Lowering, max_pool3d
from rstg_jax.layers.norms import BatchNorm
from rstg_jax.models.backbones.base import After, Backbone, BackboneConfig
from rstg_jax.models.backbones.motion import MotionBlock
from rstg_jax.models.backbones.pixels import (
    IMAGENET_MEAN,
    IMAGENET_SCALE,
    OFFICIAL_MEAN,
    OFFICIAL_SCALE,
    check_scale,
    normalise,
)

Kind = Literal["i3d", "c2d", "nl_i3d"]
EPSILON = 1e-5
MOMENTUM = 0.9
I3D_KERNELS = ((3,), (3, 1), (3, 1), (1, 3))
C2D_KERNELS = ((1,), (1,), (1,), (1,))
# Official non-local models have five blocks: after the odd blocks of res3 and res4.
NON_LOCAL = ("res3.1", "res3.3", "res4.1", "res4.3", "res4.5")


@dataclasses.dataclass(frozen=True)
class ResNet3DConfig(BackboneConfig):
    """A table of stages; see the module for the default one.

    Attributes:
      depths: bottleneck blocks of each stage; R50 is (3, 4, 6, 3), R101 is (3, 4, 23, 3).
      width: channels of conv1; stage s = 2, 3, ... works on `width * 2**(s - 2)` channels and
        gives four times as many.
      stem_kernel: frames, rows and columns of conv1's kernel.
      stem_stride: its stride.
      pool1_stride: temporal stride of the 3x3 max-pool after conv1, or 0 for no pool at all.
      pool1_padding: of that pool, in pixels: 0 (official, 112 -> 55) or 1 (torchvision, 56).
      pool2: frames that the max-pool after res2 makes one (1 for none).
      temporal_kernels: for each stage the temporal kernels of its blocks, repeated along the stage.
      shift: one in this many of the channels that a block's conv1 reads comes from the next frame,
        and as many from the one before (TSM: 8); 0 for none. The shortcut is not shifted.
      shift_every: distance of the blocks that do so, from the first of each stage on.
      spatial_strides: of each stage's first block.
      temporal_strides: the same in time.
      non_local: blocks that a non-local block follows, such as `NON_LOCAL`.
      non_local_pool: the 1x2x2 max-pool of keys and values comes "before" their convolutions
        (official, SlowFast) or "after" them (mmaction2).
      motion: blocks that a block of MFNet follows, see `rstg_jax.models.backbones.motion`.
      statistics: batch norm with "frozen" statistics, gain and bias trained (official), or with
        those of the "batch".
      input_mean: subtracted from pixel values 0..255; one number a channel, or one for all.
      input_scale: divides them after that.
      lowering: see `Conv3D`.
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    stem_kernel: tuple[int, int, int] = (5, 7, 7)
    stem_stride: tuple[int, int, int] = (1, 2, 2)
    pool1_stride: int = 1
    pool1_padding: int = 0
    pool2: int = 2
    temporal_kernels: tuple[tuple[int, ...], ...] = I3D_KERNELS
    shift: int = 0
    shift_every: int = 1
    spatial_strides: tuple[int, ...] = (1, 2, 2, 1)
    temporal_strides: tuple[int, ...] = (1, 1, 1, 1)
    non_local: tuple[str, ...] = ()
    non_local_pool: Literal["before", "after"] = "before"
    motion: tuple[str, ...] = ()
    statistics: Literal["frozen", "batch"] = "frozen"
    input_mean: tuple[float, ...] = OFFICIAL_MEAN
    input_scale: tuple[float, ...] = OFFICIAL_SCALE
    lowering: Lowering = "auto"

    def __post_init__(self) -> None:
        tables = ("temporal_kernels", "spatial_strides", "temporal_strides")
        for name in tables:
            if len(getattr(self, name)) != len(self.depths):
                raise UserError(
                    f"{name} has {len(getattr(self, name))} entries for "
                    f"{len(self.depths)} stages (depths {self.depths})"
                )
        even = [k for kernels in self.temporal_kernels for k in kernels if k % 2 == 0]
        if even or any(size % 2 == 0 for size in self.stem_kernel):
            raise UserError("kernels must have odd sizes")
        if min((*self.depths, self.width, self.pool2, self.shift_every)) < 1:
            raise UserError("depths, width, pool2 and shift_every must be at least 1")
        sizes = (*self.stem_kernel, *self.stem_stride, *sum(self.temporal_kernels, ()))
        if min(*sizes, *self.spatial_strides, *self.temporal_strides) < 1:
            raise UserError("kernels and strides must be at least 1")
        if min(self.pool1_stride, self.pool1_padding) < 0:
            raise UserError("pool1_stride and pool1_padding cannot be negative")
        if self.shift < 0 or self.shift == 1:
            raise UserError(f"shift={self.shift} must be 0 (none) or at least 2")
        check_scale(*self.input_scale)
        for place in self.non_local + self.motion:
            self.resolve(place)

    @property
    def places(self) -> tuple[str, ...]:
        """Names of all places behind a block, such as "res3.2", in order."""
        return tuple(f"res{stage}.{block}" for stage, block in self.blocks())

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Yields `(stage, block)`, stages counted from 2 and blocks from 0."""
        for stage, depth in enumerate(self.depths, start=2):
            for block in range(depth):
                yield stage, block

    def shifts(self, block: int) -> bool:
        """Whether this block of a stage, counted from 0, reads channels of other frames."""
        return self.shift > 0 and block % self.shift_every == 0

    def resolve(self, place: str) -> str:
        """The full name of a place: "res3" is behind the block before the stage's last (official).

        Raises:
          UserError: there is no such place.
        """
        stages = {f"res{stage}": depth for stage, depth in enumerate(self.depths, start=2)}
        name = f"{place}.{max(stages[place] - 2, 0)}" if place in stages else place
        if name not in self.places:
            raise UserError(
                f"no place {place!r} in the backbone; use 'final', {', '.join(stages)} or "
                f"a single block, {self.places[0]} to {self.places[-1]}"
            )
        return name

    def build(self, dtype: jnp.dtype, name: str) -> "ResNet3D":
        return ResNet3D(self, dtype, name=name)


def official(kind: Kind = "i3d", **fields: Any) -> ResNet3DConfig:
    """The layout of the authors' release; `fields` replace single choices."""
    return ResNet3DConfig(**_kind(kind) | fields)


def kinetics(kind: Kind = "i3d", **fields: Any) -> ResNet3DConfig:
    """The layout of Kinetics models: padded pool, res5 with stride 2, ImageNet's input range."""
    settings: dict[str, Any] = {
        "pool1_padding": 1,
        "spatial_strides": (1, 2, 2, 2),
        "input_mean": IMAGENET_MEAN,
        "input_scale": IMAGENET_SCALE,
    }
    return ResNet3DConfig(**settings | _kind(kind) | fields)


def imagenet(**fields: Any) -> ResNet3DConfig:
    """Torchvision's ResNet on every frame: C2D without any pooling over time."""
    return kinetics("c2d", **{"pool2": 1} | fields)


def slow_only(**fields: Any) -> ResNet3DConfig:
    """PyTorchVideo's slow pathway of SlowFast by itself: temporal kernels in res4 and res5."""
    settings: dict[str, Any] = {
        "stem_kernel": (1, 7, 7),
        "temporal_kernels": ((1,), (1,), (3,), (3,)),
        "pool2": 1,
        "input_mean": OFFICIAL_MEAN,  # 0.45 and 0.225 of pixels 0..1
        "input_scale": OFFICIAL_SCALE,
    }
    return kinetics(**settings | fields)


def tsm(**fields: Any) -> ResNet3DConfig:
    """Torchvision's ResNet on frames that exchange channels; `shift_every` is 2 in R101."""
    return imagenet(**{"shift": 8} | fields)


def mfnet(**fields: Any) -> ResNet3DConfig:
    """MFNet-C: motion blocks behind every stage of torchvision's ResNet on frames."""
    config = imagenet(**fields)
    ends = [f"res{stage}.{depth - 1}" for stage, depth in enumerate(config.depths, start=2)]
    return dataclasses.replace(config, motion=tuple(ends))


def _kind(kind: str) -> dict[str, Any]:
    if kind == "c2d":
        return {"stem_kernel": (1, 7, 7), "temporal_kernels": C2D_KERNELS}
    return {"non_local": NON_LOCAL} if kind == "nl_i3d" else {}


class ResNet3D(Backbone):
    """The network of a `ResNet3DConfig`.

    Attributes:
      config: the table of stages.
    """

    config: ResNet3DConfig

    def features(self, video: jax.Array, train: bool, after: After) -> jax.Array:
        """`[b t h w c]` pixels 0..255 -> features `[b t' h' w' c']`."""
        config = self.config
        x = stem(normalise(video, config, self.dtype), config, train=train)
        non_local = {config.resolve(place) for place in config.non_local}
        motion = {config.resolve(place) for place in config.motion}
        for stage, block in config.blocks():
            if (stage, block) == (3, 0) and config.pool2 > 1:
                x = max_pool3d(x, (config.pool2, 1, 1), (config.pool2, 1, 1))
            place, name = f"res{stage}.{block}", f"res{stage}_{block}"
            x = Bottleneck(config, stage, block, name=name)(x, train=train)
            if place in non_local:
                x = NonLocal(config, name=f"{name}_nonlocal")(x, train=train)
            if place in motion:
                is_batch = train and config.statistics == "batch"
                x = MotionBlock(config.lowering, name=f"{name}_motion")(x, train=is_batch)
            x = after[place](x) if place in after else x
        return x


def stem(x: jax.Array, config: ResNet3DConfig, *, train: bool, prefix: str = "") -> jax.Array:
    """The first convolution, its norm and pool; to be called inside a compact method.

    Args:
      x: normalised clips `[b t h w c]`.
      config: the table of stages.
      train: for batch norm with statistics of the batch.
      prefix: of the names of the weights.
    """
    kernel, stride = config.stem_kernel, config.stem_stride
    conv = Conv3D(config.width, kernel, stride, lowering=config.lowering, name=f"{prefix}conv1")
    x = nn.relu(norm(config, f"{prefix}conv1_bn")(conv(x), train=train))
    if not config.pool1_stride:
        return x
    side = (config.pool1_padding,) * 2
    return max_pool3d(x, (1, 3, 3), (config.pool1_stride, 2, 2), ((0, 0), side, side))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with batch norm around a shortcut."""

    config: ResNet3DConfig
    stage: int
    block: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """`[b t h w c]` -> `[b t' h' w' c']`."""
        config, row = self.config, self.stage - 2
        width, kernels = config.width * 2**row, config.temporal_kernels[row]
        kernel = (kernels[self.block % len(kernels)], 1, 1)
        first = self.block == 0
        step = config.spatial_strides[row] if first else 1
        frames = (config.temporal_strides[row] if first else 1, 1, 1)
        lowering = config.lowering

        y = shifted(x, config.shift) if config.shifts(self.block) else x
        y = Conv3D(width, kernel, frames, lowering=lowering, name="conv1")(y)
        y = nn.relu(norm(config, "bn1")(y, train=train))
        y = Conv3D(width, (1, 3, 3), (1, step, step), lowering=lowering, name="conv2")(y)
        y = nn.relu(norm(config, "bn2")(y, train=train))
        y = Conv3D(4 * width, lowering=lowering, name="conv3")(y)
        y = norm(config, "bn3")(y, train=train)
        if first:
            stride = (frames[0], step, step)
            x = Conv3D(4 * width, stride=stride, lowering=lowering, name="shortcut")(x)
            x = norm(config, "shortcut_bn")(x, train=train)
        return nn.relu(x + y)


def shifted(x: jax.Array, share: int) -> jax.Array:
    """`[b t h w c]` with c/share channels of the next frame and as many of the one before.

    These are the first channels; zeros stand for frames outside the clip.
    """
    size = x.shape[-1] // share
    clip = ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0))
    following = jnp.pad(x[..., :size], clip)[:, 2:]
    previous = jnp.pad(x[..., size : 2 * size], clip)[:, :-2]
    return jnp.concatenate([following, previous, x[..., 2 * size :]], axis=-1)


class NonLocal(nn.Module):
    """Every pixel of every frame attends to all of them (Wang et al. 2018, "embedded Gaussian")."""

    config: ResNet3DConfig

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """`[b t h w c]` -> the same shape; the identity at the start of training."""
        channels, inner = x.shape[-1], x.shape[-1] // 2
        conv = functools.partial(Conv3D, bias=True, lowering=self.config.lowering)
        theta = conv(inner, name="theta")(x)
        phi, g = (conv(inner, name=name) for name in ("phi", "g"))
        pool = functools.partial(max_pool3d, window=(1, 2, 2), stride=(1, 2, 2))
        if self.config.non_local_pool == "before":
            pooled = pool(x)
            few = (phi(pooled), g(pooled))
        else:
            few = (pool(phi(x)), pool(g(x)))
        b, *_ = x.shape
        query, keys, values = (y.reshape(b, -1, inner) for y in (theta, *few))
        logits = jnp.einsum("bpc,bqc->bpq", query, keys) * inner**-0.5
        weights = nn.softmax(logits.astype(jnp.float32)).astype(x.dtype)
        y = jnp.einsum("bpq,bqc->bpc", weights, values).reshape(*x.shape[:-1], inner)
        y = conv(channels, name="out")(y)
        return x + norm(self.config, "bn", zero=True)(y, train=train)


class HasStatistics(Protocol):
    """A configuration that says whose statistics batch norm uses, "frozen" or "batch"."""

    @property
    def statistics(self) -> str: ...


def norm(config: HasStatistics, name: str, zero: bool = False) -> Callable[..., jax.Array]:
    """Batch norm over clips, frames and pixels; the batch's own statistics only if not frozen."""
    layer = BatchNorm(
        (0, 1, 2, 3), unbiased=True, epsilon=EPSILON, momentum=MOMENTUM, zero=zero, name=name
    )

    def apply(x: jax.Array, *, train: bool) -> jax.Array:
        return layer(x, train=train and config.statistics == "batch")

    return apply
