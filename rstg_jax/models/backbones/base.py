"""The interface of a backbone: a configuration that names its places and builds its module."""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.errors import UserError

# Functions of the features at places of these full names, `[b t h w c]` to the same shape.
After = Mapping[str, Callable[[jax.Array], jax.Array]]
# The place of the token of the whole clip, `[b 1 1 1 c]`, in backbones that have one.
CLASS_TOKEN = "class_token"


@dataclasses.dataclass(frozen=True)
class BackboneConfig(abc.ABC):
    """Configuration of a network that turns videos into feature volumes.

    A new backbone is one file: a frozen dataclass that derives from this one, and its `Backbone`.
    """

    @property
    @abc.abstractmethod
    def places(self) -> tuple[str, ...]:
        """Full names of the places where a block can be put, in order."""

    @property
    def per_frame(self) -> bool:
        """Whether the features of a frame depend on that frame alone."""
        return False

    @property
    def gives_objects(self) -> bool:
        """Whether its features say by themselves where the object of each class is.

        See `rstg_jax.models.object_map.given_objects`.
        """
        return False

    @property
    def class_token(self) -> bool:
        """Whether it has a token of the whole clip beside the map, at the place `CLASS_TOKEN`."""
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
    def build(self, dtype: jnp.dtype, name: str) -> "Backbone":
        """The module, which computes in `dtype`."""


class Backbone(nn.Module):
    """The network of a `BackboneConfig`; those that derive from it say how features are made.

    Attributes:
      config: see there.
      dtype: of the computation.
    """

    config: Any
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, video: jax.Array, *, train: bool = False, after: After | None = None
    ) -> jax.Array:
        """Videos `[b t h w c]` -> features `[b t' h' w' c']`.

        Args:
          video: as the data give it, mostly pixels 0..255.
          train: for norms with statistics of the batch.
          after: functions to apply to the features at some places.
        """
        return self.features(video, train, after or {})

    def features(self, video: jax.Array, train: bool, after: After) -> jax.Array:
        """What `__call__` returns, for the same arguments."""
        raise NotImplementedError
