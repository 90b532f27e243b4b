"""Other projects' names of the layers of our ResNets."""

import dataclasses
import re

from rstg_jax.convert.fit import LEAVES, Arrays, Names, Path
from rstg_jax.models.backbones.resnet3d import ResNet3DConfig


@dataclasses.dataclass(frozen=True)
class ResNetNames(Names):
    """A project's names of our modules.

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
