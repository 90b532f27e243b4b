"""What PyTorch projects call the layers of our ResNets, and the networks that they publish."""

import dataclasses
import re
from typing import Any

from rstg_jax.models.backbones import resnet3d
from rstg_jax.models.backbones.resnet3d import ResNet3DConfig

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


@dataclasses.dataclass(frozen=True)
class Names:
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
      mmcv_attention: non-local blocks do not divide logits by the root of the width, and their
        last convolution has no bias. (Its factor can be moved into theta.)
    """

    stem: tuple[str, str]
    block: str
    inside: tuple[str, ...]
    classifier: str
    non_local: str | None = None
    attention: tuple[str, ...] = ("conv_theta", "conv_phi", "conv_g", "conv_out", "norm")
    mmcv_attention: bool = False


INSIDE = ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "shortcut", "shortcut_bn")
ATTENTION = ("theta", "phi", "g", "out", "bn")

TORCHVISION = Names(  # and timm
    stem=("conv1", "bn1"),
    block="layer{layer}.{block}.",
    inside=("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "downsample.0", "downsample.1"),
    classifier="fc",
)
PYTORCHVIDEO = Names(
    stem=("blocks.0.conv", "blocks.0.norm"),
    block="blocks.{part}.res_blocks.{block}.",
    inside=(
        *("branch2.conv_a", "branch2.norm_a", "branch2.conv_b", "branch2.norm_b"),
        *("branch2.conv_c", "branch2.norm_c", "branch1_conv", "branch1_norm"),
    ),
    classifier="blocks.{part}.proj",
)
SLOWFAST = Names(
    stem=("s1.pathway0_stem.conv", "s1.pathway0_stem.bn"),
    block="s{stage}.pathway0_res{block}.",
    inside=(
        *("branch2.a", "branch2.a_bn", "branch2.b", "branch2.b_bn"),
        *("branch2.c", "branch2.c_bn", "branch1", "branch1_bn"),
    ),
    classifier="head.projection",
    non_local="s{stage}.pathway0_nonlocal{block}.",
)
MMACTION = Names(
    stem=("backbone.conv1.conv", "backbone.conv1.bn"),
    block="backbone.layer{layer}.{block}.",
    inside=(
        *("conv1.conv", "conv1.bn", "conv2.conv", "conv2.bn", "conv3.conv", "conv3.bn"),
        *("downsample.conv", "downsample.bn"),
    ),
    classifier="cls_head.fc_cls",
    non_local="backbone.layer{layer}.{block}.non_local_block.",
    attention=("theta.conv", "phi.0.conv", "g.0.conv", "conv_out.conv", "conv_out.bn"),
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
    """

    names: Names
    backbone: ResNet3DConfig
    frames: int
    stride: int | None = None


def _archs() -> dict[str, Arch]:
    """All that the command line offers, by name: PROJECT_KIND_DEPTH."""
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
    deep = {
        f"{name}_r101": dataclasses.replace(
            arch, backbone=dataclasses.replace(arch.backbone, depths=(3, 4, 23, 3))
        )
        for name, arch in archs.items()
        if name in ("imagenet_c2d", "imagenet_i3d", "slowfast_c2d", "slowfast_i3d")
    }
    return {f"{name}_r50": arch for name, arch in archs.items()} | deep


ARCHS = _archs()


def torch_name(arch: Arch, path: tuple[str, ...]) -> str:
    """What the file calls one of our variables; `path` is without the collection."""
    names, leaf = arch.names, LEAVES[path[-1]]
    pool = int(arch.backbone.pool2 > 1)  # is a part of PyTorchVideo's list, behind res2
    if path[0] == "classifier":
        part = len(arch.backbone.depths) + 1 + pool
        return f"{names.classifier.format(part=part)}.{leaf}"
    module = path[1]
    match = re.fullmatch(r"res(\d+)_(\d+)(_nonlocal)?", module)
    if not match:
        return f"{names.stem[('conv1', 'conv1_bn').index(module)]}.{leaf}"
    stage, block = int(match[1]), int(match[2])
    if match[3]:
        assert names.non_local is not None  # `ARCHS` has no such network
        begin, end = names.non_local, names.attention[ATTENTION.index(path[2])]
    else:
        begin, end = names.block, names.inside[INSIDE.index(path[2])]
    part = stage - 1 + (pool if stage > 2 else 0)
    return f"{begin}{end}.{leaf}".format(stage=stage, layer=stage - 1, block=block, part=part)
