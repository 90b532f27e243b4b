"""What PyTorchVideo calls the layers of SlowFast and X3D."""

import re

from rstg_jax.convert.fit import Names, Path
from rstg_jax.convert.inception_names import LEAVES
from rstg_jax.convert.resnet_names import PYTORCHVIDEO
from rstg_jax.models.backbones.slowfast import SlowFastConfig
from rstg_jax.models.backbones.x3d import X3DConfig


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


class X3DNames(Names):
    """X3D, whose head begins with our last convolution."""

    def of(self, backbone: X3DConfig, path: Path) -> str:
        leaf, head = LEAVES[path[-1]], f"blocks.{len(backbone.depths) + 1}"
        if path[0] == "classifier":
            return f"{head}.proj.{leaf}"
        layers = {
            "conv1": "blocks.0.conv.conv_t",  # which is the one over rows and columns
            "conv1_time": "blocks.0.conv.conv_xy",
            "conv1_bn": "blocks.0.norm",
            "conv5": f"{head}.pool.pre_conv",
            "conv5_bn": f"{head}.pool.pre_norm",
            "project": f"{head}.pool.post_conv",
        }
        if path[1] in layers:
            return f"{layers[path[1]]}.{leaf}"
        stage, block = map(int, path[1].removeprefix("res").split("_"))
        inside = {
            "conv1": "branch2.conv_a",
            "bn1": "branch2.norm_a",
            "conv2": "branch2.conv_b",
            "bn2": "branch2.norm_b.0",
            "squeeze": "branch2.norm_b.1.block.0",
            "excite": "branch2.norm_b.1.block.2",
            "conv3": "branch2.conv_c",
            "bn3": "branch2.norm_c",
            "shortcut": "branch1_conv",
            "shortcut_bn": "branch1_norm",
        }
        return f"blocks.{stage - 1}.res_blocks.{block}.{inside[path[2]]}.{leaf}"
