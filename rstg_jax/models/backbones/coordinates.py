"""No network at all: maps of objects with the coordinates of what is on them."""

import dataclasses

import jax
import jax.numpy as jnp

from rstg_jax.models.backbones.base import After, Backbone, BackboneConfig


@dataclasses.dataclass(frozen=True)
class CoordinatesConfig(BackboneConfig):
    """For frames that are maps already (`rstg_jax.data.object_maps`); it has no weights.

    Every channel is followed by its products with row and column, from -1 to 1: pooled over a
    region they say where in it an object is.
    """

    @property
    def places(self) -> tuple[str, ...]:
        return ()

    @property
    def per_frame(self) -> bool:
        return True

    @property
    def gives_objects(self) -> bool:
        return True

    def build(self, dtype: jnp.dtype, name: str) -> "Coordinates":
        return Coordinates(self, dtype, name=name)


class Coordinates(Backbone):
    """The module of a `CoordinatesConfig`."""

    config: CoordinatesConfig

    def features(self, video: jax.Array, train: bool, after: After) -> jax.Array:
        """`[b t h w c]` of 0..255 -> `[b t h w 3*c]`.

        An object's mass is h * w, so that the mean over a map is the number of its objects.
        """
        del train, after
        h, w = video.shape[2:4]
        x = video.astype(jnp.float32) * (h * w / 255)
        row, column = jnp.linspace(-1, 1, h)[:, None, None], jnp.linspace(-1, 1, w)[:, None]
        return jnp.concatenate([x, x * row, x * column], axis=-1).astype(self.dtype)
