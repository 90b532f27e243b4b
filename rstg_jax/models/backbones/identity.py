"""No network at all: what is given are feature maps already."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.models.backbones.base import BackboneConfig


@dataclasses.dataclass(frozen=True)
class IdentityConfig(BackboneConfig):
    """For stored feature maps (`rstg_jax.data.features`); it has no weights."""

    @property
    def places(self) -> tuple[str, ...]:
        return ()

    def build(self, dtype: jnp.dtype, name: str) -> "Identity":
        return Identity(dtype, name=name)


class Identity(nn.Module):
    """The module of an `IdentityConfig`."""

    dtype: jnp.dtype = jnp.float32

    def __call__(
        self,
        video: jax.Array,
        *,
        train: bool = False,
        after: Mapping[str, Callable[[jax.Array], jax.Array]] | None = None,
    ) -> jax.Array:
        """Feature maps `[b t h w c]`, the same in the dtype of the computation."""
        del train, after
        return video.astype(self.dtype)
