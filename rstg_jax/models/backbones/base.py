"""The interface of a backbone: a configuration that names its places and builds its module."""

import abc
import dataclasses

import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class BackboneConfig(abc.ABC):
    """Configuration of a network that turns videos into feature volumes.

    A new backbone is one file with a frozen dataclass that derives from this one.
    """

    @property
    @abc.abstractmethod
    def places(self) -> tuple[str, ...]:
        """Full names of the places where a block can be put, in order."""

    @property
    def per_frame(self) -> bool:
        """Whether the features of a frame depend on that frame alone."""
        return False

    def resolve(self, place: str) -> str:
        """The full name of a place, which may have short ones.

        Raises:
          UserError: there is no such place; names those that exist.
        """
        if place not in self.places:
            choices = ", ".join(self.places)
            raise UserError(f"no place {place!r} in the backbone; use 'final', {choices}")
        return place

    @abc.abstractmethod
    def build(self, dtype: jnp.dtype, name: str) -> nn.Module:
        """The module, which computes in `dtype`.

        It is called as ``module(video, train=..., after=...)``: `video` `[b t h w c]` as the data
        give it, mostly pixels 0..255; `after` maps full names of places to functions that are
        applied to the features there, `[b t h w c]` to the same shape. It returns features
        `[b t' h' w' c']`.
        """
