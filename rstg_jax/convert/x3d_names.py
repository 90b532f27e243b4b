"""Other projects' names of the layers of our X3D.

Sources: PyTorchVideo 0.1.5, `x3d.py`; PySlowFast's `stem_helper.py`, `resnet_helper.py`,
`operators.py` and `head_helper.py`; mmaction2 1.2.0, `x3d.py` and `x3d_head.py`.
"""

import dataclasses
from collections.abc import Mapping

from rstg_jax.convert import resnet_names
from rstg_jax.convert.fit import LEAVES, Names, Path
from rstg_jax.convert.resnet_names import INSIDE, ResNetNames
from rstg_jax.models.backbones.x3d import X3DConfig


@dataclasses.dataclass(frozen=True)
class X3DNames(Names):
    """A project's names of our modules.

    Attributes:
      resnet: the project's names of residual blocks, which are the same here but for `inside`.
      outside: of the layers before and behind the blocks; `{head}` is PyTorchVideo's position of
        the head in its list of stem, stages and head.
      inside: of the layers of a block that a ResNet has not, or calls otherwise.
    """

    resnet: ResNetNames
    outside: Mapping[str, str]
    inside: Mapping[str, str]

    def of(self, backbone: X3DConfig, path: Path) -> str:
        layer, leaf = path[-2], LEAVES[path[-1]]
        if not path[1].startswith("res"):
            return f"{self.outside[layer].format(head=len(backbone.depths) + 1)}.{leaf}"
        stage, block = map(int, path[1].removeprefix("res").split("_"))
        begin = self.resnet.block.format(stage=stage, layer=stage - 1, part=stage - 1, block=block)
        end = self.inside.get(layer) or self.resnet.inside[INSIDE.index(layer)]
        return f"{begin}{end}.{leaf}"


# The heads of PyTorchVideo and PySlowFast begin with our last convolution.
PYTORCHVIDEO = X3DNames(
    resnet_names.PYTORCHVIDEO,
    outside={
        "conv1": "blocks.0.conv.conv_t",  # which is the one over rows and columns
        "conv1_time": "blocks.0.conv.conv_xy",
        "conv1_bn": "blocks.0.norm",
        "conv5": "blocks.{head}.pool.pre_conv",
        "conv5_bn": "blocks.{head}.pool.pre_norm",
        "project": "blocks.{head}.pool.post_conv",
        "classifier": "blocks.{head}.proj",
    },
    inside={
        "bn2": "branch2.norm_b.0",
        "squeeze": "branch2.norm_b.1.block.0",
        "excite": "branch2.norm_b.1.block.2",
    },
)
PYSLOWFAST = X3DNames(
    resnet_names.SLOWFAST,
    outside={
        "conv1": "s1.pathway0_stem.conv_xy",
        "conv1_time": "s1.pathway0_stem.conv",
        "conv1_bn": "s1.pathway0_stem.bn",
        "conv5": "head.conv_5",
        "conv5_bn": "head.conv_5_bn",
        "project": "head.lin_5",
        "classifier": "head.projection",
    },
    inside={"squeeze": "branch2.se.fc1", "excite": "branch2.se.fc2"},
)
MMACTION = X3DNames(
    resnet_names.MMACTION,
    outside={
        "conv1": "backbone.conv1_s.conv",
        "conv1_time": "backbone.conv1_t.conv",
        "conv1_bn": "backbone.conv1_t.bn",
        "conv5": "backbone.conv5.conv",
        "conv5_bn": "backbone.conv5.bn",
        "project": "cls_head.fc1",
        "classifier": "cls_head.fc2",
    },
    inside={"squeeze": "se_module.fc1", "excite": "se_module.fc2"},
)
