"""Names of the layers of TRN and ECO, which are those of a network on frames and their own."""

import dataclasses
import math
from typing import Any

import numpy as np

from rstg_jax.convert.fit import LEAVES, Arrays, Names, Path
from rstg_jax.convert.inception_names import BNInception
from rstg_jax.convert.resnet_names import ResNetNames
from rstg_jax.errors import UserError
from rstg_jax.models.backbones.eco import TAIL, ECOConfig
from rstg_jax.models.heads import RelationHead

JOINED = "classifier of all scales"  # a name that no file has


@dataclasses.dataclass(frozen=True)
class TRN(Names):
    """zhoubolei/TRN-pytorch and mmaction2, multi-scale: scale 0 has the most frames.

    Attributes:
      trunk: names of the network on frames, whose classifier makes the vectors of frames.
      head: of the network.
      consensus: beginning of the names of the relations.
    """

    trunk: BNInception | ResNetNames
    head: RelationHead = dataclasses.field(default_factory=RelationHead)
    consensus: str = "consensus"

    def of(self, backbone: Any, path: Path) -> str | None:
        leaf = LEAVES[path[-1]]
        if path[0] == "classifier":
            return f"{JOINED}.{leaf}"
        if path[0] != "head":
            return self.trunk.of(backbone, path)
        if path[1] == "frame":
            return f"{self.trunk.classifier}.{leaf}"
        scale = self.head.frames - int(path[1].removeprefix("relation"))
        return f"{self.scale(scale)}.1.{leaf}"

    def scale(self, number: int) -> str:
        """The network of a scale."""
        return f"{self.consensus}.fc_fusion_scales.{number}"

    def prepare(self, state: Arrays) -> Arrays:
        """Makes one linear layer of the last ones of all scales, which are summed over subsets."""
        state, frames = dict(self.trunk.prepare(state)), self.head.frames
        last = [f"{self.scale(number)}.3" for number in range(frames - 1)]
        names = [f"{name}.{leaf}" for name in last for leaf in ("weight", "bias")]
        if missing := [name for name in names if name not in state]:
            raise UserError(f"the tensors are no TRN of {frames} frames: missing {missing[0]}")
        counts = [min(self.head.subsets, math.comb(frames, frames - i)) for i in range(len(last))]
        weights, biases = ([state.pop(name) for name in names[i::2]] for i in range(2))
        state[f"{JOINED}.weight"] = np.concatenate(weights, axis=1)
        state[f"{JOINED}.bias"] = np.asarray(counts, np.float32) @ np.stack(biases)
        return state


@dataclasses.dataclass(frozen=True)
class ECO(Names):
    """mzolfaghari/ECO-pytorch, ECO-Lite.

    Attributes:
      trunk: names of BN-Inception.
    """

    trunk: BNInception

    def of(self, backbone: ECOConfig, path: Path) -> str:
        if path[0] == "classifier":
            return self.trunk.of(backbone.front, path)
        if path[1] == "front":
            return self.trunk.of(backbone.front, path[1:])
        units, leaf = list(TAIL), LEAVES[path[-1]]
        if path[1] == "bn":
            name = f"{units[-1]}_bn"
        elif path[1] == "res3a":
            name = "res3a_2"
        else:
            unit, layer = path[1:3]
            before = units[units.index(unit) - 1]  # whose norm is the first of this unit
            ends = {"conv1": "_1", "bn2": "_1_bn", "conv2": "_2", "down": "_down"}
            name = f"{before}_bn" if layer == "bn1" else unit + ends[layer]
        return f"{self.trunk.prefix}{name}.{leaf}"

    def prepare(self, state: Arrays) -> Arrays:
        return self.trunk.prepare(state)
