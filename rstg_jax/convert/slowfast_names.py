"""Other projects' names of the layers of our SlowFast.

mmaction2's SlowFast is not the others': no norm behind the convolutions between the pathways, other
frames for the slow one, and a classifier that reads the fast map first.

Source of mmaction2: 1.2.0, `resnet3d_slowfast.py`, `slowfast_head.py`.
"""

import abc
import re

import numpy as np

from rstg_jax.convert import resnet_names
from rstg_jax.convert.fit import LEAVES, Arrays, Names, Path
from rstg_jax.convert.resnet_names import ResNetNames
from rstg_jax.models.backbones.slowfast import SlowFastConfig

LAST_OF_FAST = re.compile(r"backbone\.fast_path\.layer(\d+)\.\d+\.conv3\.conv\.weight")


class SlowFastNames(Names):
    """Both pathways are ResNets; pathway 0 is the slow one."""

    resnet: ResNetNames  # the project's names of one

    @abc.abstractmethod
    def lateral(self, stage: int, norm: bool) -> str:
        """The convolution from the fast pathway behind a stage, from 1, or its norm."""

    @abc.abstractmethod
    def in_pathway(self, name: str, pathway: int) -> str:
        """A variable of a pathway that has this name in a ResNet."""

    def of(self, backbone: SlowFastConfig, path: Path) -> str:
        if path[0] == "classifier":
            return str(self.resnet.of(backbone.slow, path))
        if match := re.fullmatch(r"lateral(\d+)(_bn)?", path[1]):
            return f"{self.lateral(int(match[1]), bool(match[2]))}.{LEAVES[path[-1]]}"
        pathway, module = path[1].split("_", 1)
        number = ("slow", "fast").index(pathway)
        config = (backbone.slow, backbone.fast)[number]
        return self.in_pathway(str(self.resnet.of(config, ("backbone", module, *path[2:]))), number)


class PyTorchVideoNames(SlowFastNames):
    """PyTorchVideo."""

    resnet = resnet_names.PYTORCHVIDEO

    def of(self, backbone: SlowFastConfig, path: Path) -> str:
        if path[0] == "classifier":  # behind a pool of both pathways
            return f"blocks.{len(backbone.depths) + 2}.proj.{LEAVES[path[-1]]}"
        return super().of(backbone, path)

    def lateral(self, stage: int, norm: bool) -> str:
        layer = "norm" if norm else "conv_fast_to_slow"
        return f"blocks.{stage - 1}.multipathway_fusion.{layer}"

    def in_pathway(self, name: str, pathway: int) -> str:
        blocks, part, rest = name.split(".", 2)
        return f"{blocks}.{part}.multipathway_blocks.{pathway}.{rest}"


class PySlowFastNames(SlowFastNames):
    """PySlowFast."""

    resnet = resnet_names.SLOWFAST

    def lateral(self, stage: int, norm: bool) -> str:
        return f"s{stage}_fuse.{'bn' if norm else 'conv_f2s'}"

    def in_pathway(self, name: str, pathway: int) -> str:
        return name.replace("pathway0", f"pathway{pathway}", 1)


class MMActionNames(SlowFastNames):
    """mmaction2, with norms in its pathways alone."""

    resnet = resnet_names.MMACTION

    def lateral(self, stage: int, norm: bool) -> str:
        layer = f"layer{stage - 1}" if stage > 1 else "conv1"
        return f"backbone.slow_path.{layer}_lateral.conv"

    def in_pathway(self, name: str, pathway: int) -> str:
        return name.replace("backbone.", f"backbone.{('slow', 'fast')[pathway]}_path.", 1)

    def prepare(self, state: Arrays) -> Arrays:
        """Puts the classifier's columns of the fast map, which are the first, behind the others."""
        fast = [(int(match[1]), k) for k in state if (match := LAST_OF_FAST.fullmatch(k))]
        weight = "cls_head.fc_cls.weight"
        if not fast or weight not in state:
            return state  # the error names both
        channels = len(state[max(fast)[1]])
        return {**state, weight: np.roll(state[weight], -channels, axis=1)}
