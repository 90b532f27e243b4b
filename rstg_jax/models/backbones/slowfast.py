"""SlowFast: a ResNet on a few frames, and a narrow one on all of them that feeds it.

Behind the first pool and each stage but the last, a convolution over frames brings the fast map to
the slow one's frames, and their channels are concatenated. The last fast map is averaged over the
frames between slow ones, so that the mean of the result is that of both maps.

Source: PyTorchVideo's `create_slowfast`; slow frames as in PySlowFast (Feichtenhofer et al. 2019).
mmaction2's network, which differs in two fields: its `resnet3d_slowfast.py`.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rstg_jax.errors import UserError
from rstg_jax.layers.conv import Conv3D, Lowering
from rstg_jax.models.backbones import resnet3d
from rstg_jax.models.backbones.base import After, Backbone, BackboneConfig
from rstg_jax.models.backbones.pixels import OFFICIAL_MEAN, OFFICIAL_SCALE, normalise
from rstg_jax.models.backbones.resnet3d import Bottleneck, ResNet3DConfig, norm

SlowFrames = Literal["ends", "starts"]


@dataclasses.dataclass(frozen=True)
class SlowFastConfig(BackboneConfig):
    """SlowFast; places for blocks are behind those of the slow pathway.

    Attributes:
      depths: bottleneck blocks of each stage, see `ResNet3DConfig`; fewer stages than four are the
        first ones.
      width: channels of the slow pathway's conv1.
      fast_share: the fast pathway has one in this many of the slow one's channels.
      speed: frames of the fast pathway for each of the slow one.
      lateral_kernel: frames under the convolution between the pathways.
      lateral_norms: whether a norm and ReLU are behind it; mmaction2 has neither.
      slow_frames: those of the slow pathway: "ends", evenly from the first to the last as in
        PySlowFast, or "starts", every `speed`-th from the first as in mmaction2.
      statistics: batch norm with those of the "batch", or "frozen", gain and bias trained.
      input_mean: subtracted from pixel values 0..255.
      input_scale: divides them after that.
      lowering: see `Conv3D`.
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    fast_share: int = 8
    speed: int = 4
    lateral_kernel: int = 7
    lateral_norms: bool = True
    slow_frames: SlowFrames = "ends"
    statistics: Literal["frozen", "batch"] = "batch"
    input_mean: tuple[float, ...] = OFFICIAL_MEAN
    input_scale: tuple[float, ...] = OFFICIAL_SCALE
    lowering: Lowering = "auto"

    def __post_init__(self) -> None:
        if min(self.fast_share, self.speed) < 1 or self.width < self.fast_share:
            raise UserError("fast_share and speed must be at least 1, width at least fast_share")
        if self.lateral_kernel < 1 or self.lateral_kernel % 2 == 0:
            raise UserError(f"lateral_kernel={self.lateral_kernel} must be odd")
        _ = self.slow, self.fast  # check the other fields

    @property
    def slow(self) -> ResNet3DConfig:
        """The pathway on a few frames."""
        return self._pathway()

    @property
    def fast(self) -> ResNet3DConfig:
        """The pathway on all frames."""
        return self._pathway(
            width=self.width // self.fast_share,
            stem_kernel=(5, 7, 7),
            temporal_kernels=((3,),) * len(self.depths),
        )

    def _pathway(self, **fields: Any) -> ResNet3DConfig:
        names = ("depths", "width", "statistics", "input_mean", "input_scale", "lowering")
        same = {name: getattr(self, name) for name in names}
        whole, stages = resnet3d.slow_only(), len(self.depths)
        tables = ("temporal_kernels", "spatial_strides", "temporal_strides")
        few = {name: getattr(whole, name)[:stages] for name in tables}
        return resnet3d.slow_only(**same | few | fields)

    @property
    def places(self) -> tuple[str, ...]:
        """Names of all places behind a block of the slow pathway, such as "res3.2", in order."""
        return self.slow.places

    def resolve(self, place: str) -> str:
        return self.slow.resolve(place)

    def build(self, dtype: jnp.dtype, name: str) -> "SlowFast":
        return SlowFast(self, dtype, name=name)


class SlowFast(Backbone):
    """The network of a `SlowFastConfig`.

    Attributes:
      config: see there.
    """

    config: SlowFastConfig

    def features(self, video: jax.Array, train: bool, after: After) -> jax.Array:
        """`[b t h w c]` pixels 0..255 -> features `[b t/speed h' w' c']`.

        Raises:
          UserError: the number of frames is no multiple of `speed`.
        """
        config = self.config
        x = normalise(video, config, self.dtype)
        few = slow_frames(video.shape[1], config.speed, config.slow_frames)
        slow = resnet3d.stem(x[:, few], config.slow, train=train, prefix="slow_")
        fast = resnet3d.stem(x, config.fast, train=train, prefix="fast_")
        slow = self.joined(slow, fast, "lateral1", train)
        for stage, block in config.slow.blocks():
            name = f"res{stage}_{block}"
            slow = Bottleneck(config.slow, stage, block, name=f"slow_{name}")(slow, train=train)
            fast = Bottleneck(config.fast, stage, block, name=f"fast_{name}")(fast, train=train)
            place = f"res{stage}.{block}"
            slow = after[place](slow) if place in after else slow
            is_last = block == config.depths[stage - 2] - 1
            if is_last and stage - 1 < len(config.depths):
                slow = self.joined(slow, fast, f"lateral{stage}", train)
        b, _, *rest = fast.shape
        fast = fast.reshape(b, -1, config.speed, *rest).mean(axis=2)
        return jnp.concatenate([slow, fast], axis=-1)

    def joined(self, slow: jax.Array, fast: jax.Array, name: str, train: bool) -> jax.Array:
        """The slow map with the channels of the fast one, which it makes twice as many."""
        config = self.config
        conv = Conv3D(
            2 * fast.shape[-1],
            (config.lateral_kernel, 1, 1),
            (config.speed, 1, 1),
            lowering=config.lowering,
            name=name,
        )
        lateral = conv(fast)
        if config.lateral_norms:
            lateral = nn.relu(norm(config.fast, f"{name}_bn")(lateral, train=train))
        return jnp.concatenate([slow, lateral], axis=-1)


def slow_frames(frames: int, speed: int, rule: SlowFrames = "ends") -> np.ndarray:
    """Indices of the slow pathway's frames, see `SlowFastConfig`.

    Raises:
      UserError: the number of frames is no multiple of `speed`.
    """
    if frames % speed:
        raise UserError(f"SlowFast needs a multiple of {speed} frames, the clip has {frames}")
    if rule == "starts":
        return np.arange(0, frames, speed)
    return np.linspace(0, frames - 1, frames // speed).astype(int)
