"""The auxiliary head on the backbone's last map: which objects have their centre in each pixel.

Supervised frame by frame (see `rstg_jax.training.map_loss`), it teaches the backbone what the
objects are and where. No graph and no recurrence take part, so the task helps every model alike.
What follows reads the backbone's features, `channels` of the predictions in their place, or one
vector of each object, `of_objects`. Not in the paper.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rstg_jax.rstg.block import region_means
from rstg_jax.rstg.region_graph import RegionGraph

# Initial probability of presence. Most pixels hold no object; from 0.5 the first updates would only
# learn that.
PRIOR = 0.01
# Objects fill few pixels of a region, so that means over a region are small, and objects move by
# small parts of the frame.
PRESENCE_GAIN, PLACE_GAIN = 32.0, 128.0
# Of `pool_by_presence`: places count more than presence, as motions are small; and a region with
# less than this share of an object has none.
MEAN_PLACE_GAIN, LEAST = 4.0, 0.1
# Of `find_objects`: a factor of logits, so that the surest pixels count most, and the least share
# of an object that is one.
SHARPNESS, LEAST_OBJECT = 2.0, 0.05


class ObjectMap(nn.Module):
    """A linear layer on every pixel.

    Attributes:
      num_classes: number of object classes.
    """

    num_classes: int

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Maps features `[b t h w c]` to float32 `[b t h w classes 3]`.

        Of each class: the logit of its presence, and its place `y x` in the pixel from -1 to 1.
        """
        x, shape = features.astype(jnp.float32), (*features.shape[:-1], self.num_classes)
        prior = nn.initializers.constant(math.log(PRIOR / (1 - PRIOR)))
        presence = nn.Dense(self.num_classes, bias_init=prior, name="presence")(x)
        place = nn.Dense(2 * self.num_classes, name="place")(x)
        return jnp.concatenate([presence.reshape(*shape, 1), place.reshape(*shape, 2)], axis=-1)


def channels(predicted: jax.Array, for_means: bool = True) -> jax.Array:
    """Turns predictions into channels of the feature map.

    The mean of presence and of presence times place over a region says which objects are in it and
    where. The logits themselves would not do: their mean is dominated by the many empty pixels.
    The sum over the classes says where any object is: to follow and compare motions, no class is
    needed, and without it both are learned much sooner.

    Args:
      predicted: of `ObjectMap`, `[b t h w classes 3]`.
      for_means: for means over regions. Convolutions read single pixels, and saturate cells at
        values that suit means.

    Returns:
      float32 `[b t h w 3 * (classes + 1)]`: for each class, and last for twice the sum of all,
      probability of presence times `PRESENCE_GAIN`, and probability times place in the FRAME, `y x`
      from -1 to 1, times `PLACE_GAIN`; or, if not for means, times 1 and `MEAN_PLACE_GAIN`.
    """
    presence, place = jax.nn.sigmoid(predicted[..., :1]), _places(predicted)
    gains = (PRESENCE_GAIN, PLACE_GAIN) if for_means else (1.0, MEAN_PLACE_GAIN)
    parts = [presence * gains[0], presence * place * gains[1]]
    values = jnp.concatenate(parts, axis=-1)  # [b t h w classes 3]
    values = jnp.concatenate([values, 2 * values.sum(axis=-2, keepdims=True)], axis=-2)
    return values.reshape(*predicted.shape[:4], -1)


def pool_by_presence(features: jax.Array, graph: RegionGraph) -> jax.Array:
    """Which objects each region holds, and their MEAN place.

    Over a region, the mean of presence times place changes with the presence, as when an object is
    half hidden, by more than objects move in a frame. Divided by the presence it is a place. To be
    used in place of `rstg_jax.rstg.block.region_means`.

    Args:
      features: of `channels`, `[b t h w 3 * (classes + 1)]`.
      graph: the regions.

    Returns:
      `[n t b 3 * (classes + 1)]`: of each class the sum of its presence in the region, and
      `MEAN_PLACE_GAIN` times the mean of its places, weighted by presence; the channels of all
      classes together likewise.
    """
    means = region_means(features, graph)
    sides = graph.boxes[:, 2:] - graph.boxes[:, :2]  # fractions of the frame
    pixels = sides.prod(1) * features.shape[2] * features.shape[3]
    sums = means.reshape(*means.shape[:-1], -1, 3) * pixels.reshape(-1, 1, 1, 1, 1)
    presence = sums[..., :1] / PRESENCE_GAIN
    places = sums[..., 1:] / PLACE_GAIN / (presence + LEAST)
    pooled = jnp.concatenate([presence, MEAN_PLACE_GAIN * places], axis=-1)
    return pooled.reshape(means.shape).astype(features.dtype)


class Objects(NamedTuple):
    """The object of each class in every frame.

    Attributes:
      found: how sure it is that there is one, from 0 to 1, `[b t classes]`.
      places: `y x` in the frame from -1 to 1, `[b t classes 2]`; (0, 0) without an object.
      presence: sum of its presence over the map, `[b t classes]`.
    """

    found: jax.Array
    places: jax.Array
    presence: jax.Array


def find_objects(predicted: jax.Array) -> Objects:
    """Finds the object of each class; where a class has several, a mean of their places.

    The pixels of the map compete for the object of a class, by a softmax over their logits and the
    logit 0 of "there is none".

    Args:
      predicted: of `ObjectMap`, `[b t h w classes 3]`.
    """
    b, t, h, w, classes = predicted.shape[:-1]
    logits = SHARPNESS * predicted[..., 0].reshape(b, t, h * w, classes)
    none = jnp.zeros_like(logits[:, :, :1])
    share = jax.nn.softmax(jnp.concatenate([none, logits], axis=2), axis=2)[:, :, 1:]
    places = _places(predicted).reshape(b, t, h * w, classes, 2)
    found = share.sum(axis=2)
    mean = (share[..., None] * places).sum(axis=2) / (found + LEAST_OBJECT)[..., None]
    presence = jax.nn.sigmoid(predicted[..., 0]).sum(axis=(2, 3))
    return Objects(found, mean, presence)


def given_objects(features: jax.Array) -> Objects:
    """The objects of maps that need no network, see `CoordinatesConfig`.

    Args:
      features: of that backbone, `[b t h w 3 * classes]`.
    """
    b, t, _, _, channels = features.shape
    means = features.mean(axis=(2, 3)).reshape(b, t, 3, channels // 3)
    presence = means[:, :, 0]  # 1 for an object that is all on the map
    places = jnp.einsum("btpn->btnp", means[:, :, 1:]) / jnp.maximum(presence, LEAST)[..., None]
    return Objects(presence, places, presence)


def of_objects(objects: Objects) -> jax.Array:
    """One vector of the object of each class, for a block with `RSTGConfig.objects`.

    Returns:
      float32 `[b t classes 4 + classes]`: how sure it is that there is one, its presence,
      `MEAN_PLACE_GAIN` times its place, and which class it is.
    """
    b, t, classes = objects.found.shape
    which = jnp.broadcast_to(jnp.eye(classes), (b, t, classes, classes))
    there = jnp.stack([objects.found, objects.presence], axis=-1)
    return jnp.concatenate([there, MEAN_PLACE_GAIN * objects.places, which], axis=-1)


def _places(predicted: jax.Array) -> jax.Array:
    """Places `y x` in the FRAME from -1 to 1, of those in the pixels of the map."""
    size = predicted.shape[2:4]
    corner = jnp.stack(jnp.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1)  # [h w 2]
    return (corner[:, :, None] + (predicted[..., 1:] + 1) / 2) / np.array(size) * 2 - 1
