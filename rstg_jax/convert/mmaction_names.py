"""What mmaction2 calls the layers of SlowFast.

Its SlowFast is not PyTorchVideo's: no norm behind the convolutions between the pathways, other
frames for the slow one, and a classifier that reads the fast map first.

Source: mmaction2 1.2.0, `resnet3d_slowfast.py`, `slowfast_head.py`.
"""

import re

import numpy as np

from rstg_jax.convert.fit import Arrays, Names, Path
from rstg_jax.convert.inception_names import LEAVES
from rstg_jax.convert.resnet_names import MMACTION
from rstg_jax.models.backbones.slowfast import SlowFastConfig

LAST_OF_FAST = re.compile(r"backbone\.fast_path\.layer(\d+)\.\d+\.conv3\.conv\.weight")


class SlowFastNames(Names):
    """SlowFast, with norms in its pathways alone."""

    def of(self, backbone: SlowFastConfig, path: Path) -> str:
        if path[0] == "classifier":
            return str(MMACTION.of(backbone.slow, path))
        if match := re.fullmatch(r"lateral(\d+)", path[1]):
            layer = f"layer{int(match[1]) - 1}" if int(match[1]) > 1 else "conv1"
            return f"backbone.slow_path.{layer}_lateral.conv.{LEAVES[path[-1]]}"
        pathway, module = path[1].split("_", 1)
        config = backbone.slow if pathway == "slow" else backbone.fast
        name = str(MMACTION.of(config, ("backbone", module, *path[2:])))
        return name.replace("backbone.", f"backbone.{pathway}_path.", 1)

    def prepare(self, state: Arrays) -> Arrays:
        """Puts the classifier's columns of the fast map, which are the first, behind the others."""
        fast = [(int(match[1]), k) for k in state if (match := LAST_OF_FAST.fullmatch(k))]
        weight = "cls_head.fc_cls.weight"
        if not fast or weight not in state:
            return state  # the error names both
        channels = len(state[max(fast)[1]])
        return {**state, weight: np.roll(state[weight], -channels, axis=1)}
