"""What PyTorchVideo calls the layers of SlowFast."""

import re

from rstg_jax.convert.fit import Names, Path
from rstg_jax.convert.inception_names import LEAVES
from rstg_jax.convert.resnet_names import PYTORCHVIDEO
from rstg_jax.models.backbones.slowfast import SlowFastConfig


class SlowFastNames(Names):
    """SlowFast: pathway 0 is the slow one."""

    def of(self, backbone: SlowFastConfig, path: Path) -> str:
        leaf = LEAVES[path[-1]]
        if path[0] == "classifier":
            return f"blocks.{len(backbone.depths) + 2}.proj.{leaf}"
        if match := re.fullmatch(r"lateral(\d+)(_bn)?", path[1]):
            layer = "norm" if match[2] else "conv_fast_to_slow"
            return f"blocks.{int(match[1]) - 1}.multipathway_fusion.{layer}.{leaf}"
        pathway, module = path[1].split("_", 1)
        config = backbone.slow if pathway == "slow" else backbone.fast
        name = PYTORCHVIDEO.of(config, ("backbone", module, *path[2:]))
        blocks, part, rest = str(name).split(".", 2)
        return f"{blocks}.{part}.multipathway_blocks.{int(pathway == 'fast')}.{rest}"
