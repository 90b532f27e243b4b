"""The interface of a head: a configuration that says what it reads and builds its module."""

import abc
import dataclasses
from typing import ClassVar, Literal

from flax import linen as nn

FinalBlock = Literal["nodes", "vector", "unused"]


@dataclasses.dataclass(frozen=True)
class HeadConfig(abc.ABC):
    """Configuration of a head.

    A new head is one file: a frozen dataclass that derives from this one, and its module.

    Class attributes:
      final_block: use of a block at the place "final". "nodes": required, the head reads its nodes
        `[b t n d]`; the other heads read the last feature volume `[b t h w c]`. "vector": optional,
        its vector is added to the head's. "unused": not allowed.
    """

    final_block: ClassVar[FinalBlock]

    @property
    def projects_back(self) -> bool:
        """Whether nodes are projected back to the width of the features before they are read."""
        return False

    @property
    def reads_class_token(self) -> bool:
        """Whether it reads the token of the whole clip, `[b 1 1 1 c]`, in place of the map."""
        return False

    @property
    def reads_mean(self) -> bool:
        """Whether it reads nothing but the mean of the map in every frame."""
        return False

    @property
    def convolves(self) -> bool:
        """Whether it convolves the map."""
        return False

    @property
    def reads_boxes(self) -> bool:
        """Whether it reads boxes of objects, `[b t n 4]`, see `VideoClassifier.__call__`."""
        return False

    @abc.abstractmethod
    def build(self, name: str) -> nn.Module:
        """The module, called as `module(x, train=...)`: nodes or features to float32 `[b t d]`.

        One that reads boxes is called as `module(x, boxes, train=...)`.
        A head that reads all frames together returns one vector for all of them, `[b 1 d]`.
        """
