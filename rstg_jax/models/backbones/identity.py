"""No network at all: what is given are feature maps already."""

import dataclasses

import jax
import jax.numpy as jnp

from rstg_jax.models.backbones.base import After, Backbone, BackboneConfig


@dataclasses.dataclass(frozen=True)
class IdentityConfig(BackboneConfig):
    """For stored feature maps (`rstg_jax.data.features`); it has no weights."""

    @property
    def places(self) -> tuple[str, ...]:
        return ()

    def build(self, dtype: jnp.dtype, name: str) -> "Identity":
        return Identity(self, dtype, name=name)


class Identity(Backbone):
    """The module of an `IdentityConfig`."""

    config: IdentityConfig

    def features(self, video: jax.Array, train: bool, after: After) -> jax.Array:
        """Feature maps `[b t h w c]`, the same in the dtype of the computation."""
        del train, after
        return video.astype(self.dtype)
