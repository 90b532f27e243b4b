"""The networks that PyTorch projects publish, and what they call the layers of our ResNets."""

import dataclasses
import re
from typing import Any

from rstg_jax.convert import inception_names, tsn_names
from rstg_jax.convert.fit import Arrays, Names, Path
from rstg_jax.convert.inception_names import LEAVES
from rstg_jax.models.backbones import BackboneConfig, inception, resnet3d
from rstg_jax.models.backbones.eco import ECOConfig
from rstg_jax.models.backbones.resnet3d import ResNet3DConfig
from rstg_jax.models.heads import GlobalPooling, HeadConfig, RelationHead


@dataclasses.dataclass(frozen=True)
class ResNetNames(Names):
    """What a project calls our modules.

    In the names `{stage}` counts from 2 (res2), `{layer}` from 1, and `{part}` is PyTorchVideo's
    position in the list of stem, stages, pool and head.

    Attributes:
      stem: the convolution and its norm.
      block: beginning of the names inside a residual block.
      inside: in the order of `INSIDE`.
      non_local: beginning of the names inside a non-local block, or None if there are none.
      attention: in the order of `ATTENTION`.
      classifier: the linear layer.
      shifted: what stands behind the name of a conv1 that reads other frames (TSM).
      mmcv_attention: non-local blocks do not divide logits by the root of the width, and their
        last convolution has no bias. (Its factor can be moved into theta.)
    """

    stem: tuple[str, str]
    block: str
    inside: tuple[str, ...]
    classifier: str
    non_local: str | None = None
    attention: tuple[str, ...] = ("conv_theta", "conv_phi", "conv_g", "conv_out", "norm")
    shifted: str = ""
    mmcv_attention: bool = False

    def of(self, backbone: ResNet3DConfig, path: Path) -> str | None:
        leaf = LEAVES[path[-1]]
        pool = int(backbone.pool2 > 1)  # is a part of PyTorchVideo's list, behind res2
        if path[0] == "classifier":
            part = len(backbone.depths) + 1 + pool
            return f"{self.classifier.format(part=part)}.{leaf}"
        module = path[1]
        match = re.fullmatch(r"res(\d+)_(\d+)(_nonlocal)?", module)
        if not match:
            return f"{self.stem[('conv1', 'conv1_bn').index(module)]}.{leaf}"
        stage, block = int(match[1]), int(match[2])
        if match[3]:
            if self.mmcv_attention and path[-2:] == ("out", "bias"):
                return None
            assert self.non_local is not None  # `ARCHS` has no such network
            begin, end = self.non_local, self.attention[ATTENTION.index(path[2])]
        else:
            begin, end = self.block, self.inside[INSIDE.index(path[2])]
            end += self.shifted if path[2] == "conv1" and backbone.shifts(block) else ""
        part = stage - 1 + (pool if stage > 2 else 0)
        return f"{begin}{end}.{leaf}".format(stage=stage, layer=stage - 1, block=block, part=part)

    def prepare(self, state: Arrays) -> Arrays:
        """Moves mmcv's missing factor of the logits into theta."""
        if not self.mmcv_attention:
            return state
        theta = f".{self.attention[0]}."
        return {k: v * len(v) ** 0.5 if theta in k else v for k, v in state.items()}


INSIDE = ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "shortcut", "shortcut_bn")
ATTENTION = ("theta", "phi", "g", "out", "bn")

TORCHVISION = ResNetNames(  # and timm
    stem=("conv1", "bn1"),
    block="layer{layer}.{block}.",
    inside=("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "downsample.0", "downsample.1"),
    classifier="fc",
)
TSM = dataclasses.replace(
    TORCHVISION,
    stem=("base_model.conv1", "base_model.bn1"),
    block="base_model.layer{layer}.{block}.",
    classifier="new_fc",
    shifted=".net",
)
PYTORCHVIDEO = ResNetNames(
    stem=("blocks.0.conv", "blocks.0.norm"),
    block="blocks.{part}.res_blocks.{block}.",
    inside=(
        *("branch2.conv_a", "branch2.norm_a", "branch2.conv_b", "branch2.norm_b"),
        *("branch2.conv_c", "branch2.norm_c", "branch1_conv", "branch1_norm"),
    ),
    classifier="blocks.{part}.proj",
)
SLOWFAST = ResNetNames(
    stem=("s1.pathway0_stem.conv", "s1.pathway0_stem.bn"),
    block="s{stage}.pathway0_res{block}.",
    inside=(
        *("branch2.a", "branch2.a_bn", "branch2.b", "branch2.b_bn"),
        *("branch2.c", "branch2.c_bn", "branch1", "branch1_bn"),
    ),
    classifier="head.projection",
    non_local="s{stage}.pathway0_nonlocal{block}.",
)
MMACTION = ResNetNames(
    stem=("backbone.conv1.conv", "backbone.conv1.bn"),
    block="backbone.layer{layer}.{block}.",
    inside=(
        *("conv1.conv", "conv1.bn", "conv2.conv", "conv2.bn", "conv3.conv", "conv3.bn"),
        *("downsample.conv", "downsample.bn"),
    ),
    classifier="cls_head.fc_cls",
    non_local="backbone.layer{layer}.{block}.non_local_block.",
    attention=("theta.conv", "phi.0.conv", "g.0.conv", "conv_out.conv", "conv_out.bn"),
    shifted=".net",
    mmcv_attention=True,
)


@dataclasses.dataclass(frozen=True)
class Arch:
    """A network that files are for.

    Attributes:
      names: of its tensors.
      backbone: its layers and input range.
      frames: number of frames that it was trained with (ImageNet's: a usual number).
      stride: distance of these frames; None if they are to be spread over the whole video.
      head: behind them; the mean of the last map by default.
    """

    names: Names
    backbone: BackboneConfig
    frames: int
    stride: int | None = None
    head: HeadConfig = dataclasses.field(default_factory=GlobalPooling)


def _archs() -> dict[str, Arch]:
    """ResNets by name: PROJECT_KIND_DEPTH."""
    # Both Kinetics families of Meta use mean 0.45 and deviation 0.225 of pixels 0..1.
    meta: dict[str, Any] = {
        "input_mean": resnet3d.OFFICIAL_MEAN,
        "input_scale": resnet3d.OFFICIAL_SCALE,
    }
    mm: dict[str, Any] = {"stem_stride": (2, 2, 2), "pool1_stride": 2}
    archs = {
        "imagenet_c2d": Arch(TORCHVISION, resnet3d.imagenet(), 8),
        "imagenet_i3d": Arch(TORCHVISION, resnet3d.kinetics("i3d"), 8),
        "pytorchvideo_c2d": Arch(PYTORCHVIDEO, resnet3d.kinetics("c2d", **meta), 8, 8),
        "pytorchvideo_i3d": Arch(PYTORCHVIDEO, resnet3d.kinetics("i3d", **meta), 8, 8),
        "slowfast_c2d": Arch(SLOWFAST, resnet3d.kinetics("c2d", **meta), 8, 8),
        "slowfast_i3d": Arch(SLOWFAST, resnet3d.kinetics("i3d", **meta), 8, 8),
        "slowfast_nl_i3d": Arch(SLOWFAST, resnet3d.kinetics("nl_i3d", **meta), 8, 8),
        "mmaction_i3d": Arch(MMACTION, resnet3d.kinetics("i3d", **mm), 32, 2),
        "mmaction_nl_i3d": Arch(
            MMACTION, resnet3d.kinetics("nl_i3d", non_local_pool="after", **mm), 32, 2
        ),
    }
    archs |= {
        "mit_tsm": Arch(TSM, resnet3d.tsm(), 8),
        "mmaction_tsm": Arch(MMACTION, resnet3d.tsm(), 8),
    }
    r101: dict[str, Any] = {"depths": (3, 4, 23, 3)}
    deep = {
        f"{name}_r101": dataclasses.replace(
            arch, backbone=dataclasses.replace(arch.backbone, **r101)
        )
        for name, arch in archs.items()
        if name in ("imagenet_c2d", "imagenet_i3d", "slowfast_c2d", "slowfast_i3d")
    }
    tsm = resnet3d.tsm(shift_every=2, **r101)
    deep["mit_tsm_r101"] = dataclasses.replace(archs["mit_tsm"], backbone=tsm)
    return {f"{name}_r50": arch for name, arch in archs.items()} | deep


# Frames of I3D and BN-Inception as in TSN and DeepMind's papers; S3D's as their projects state.
WINDOW = GlobalPooling(pool_window=7)
TSN = inception_names.BNInception("base_model.", "new_fc")
INCEPTIONS = {
    "imagenet_bn_inception": Arch(inception_names.BNInception(), inception.bn_inception(), 8),
    "tsn_bn_inception": Arch(TSN, inception.bn_inception(), 8),
    "trn_bn_inception": Arch(tsn_names.TRN(TSN), inception.bn_inception(), 8, head=RelationHead()),
    "eco_lite": Arch(tsn_names.ECO(TSN), ECOConfig(), 16),
    "piergiaj_i3d": Arch(inception_names.PiergiajI3D(), inception.i3d(), 64, 1, WINDOW),
    "torchvision_s3d": Arch(inception_names.TorchvisionS3D(), inception.s3d(), 128, 2, WINDOW),
    "howto100m_s3dg": Arch(inception_names.HowTo100M(), inception.howto100m(), 32, 3),
}


ARCHS = _archs() | INCEPTIONS
