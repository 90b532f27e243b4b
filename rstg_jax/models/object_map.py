"""The auxiliary head on the backbone's last map: which objects have their centre in each pixel.

Supervised frame by frame (see `rstg_jax.training.map_loss`), it teaches the backbone what the
objects are and where. No graph and no recurrence take part, so the task helps every model alike.
Not in the paper.
"""

import math

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


def channels(predicted: jax.Array) -> jax.Array:
    """Turns predictions into channels of the feature map.

    The mean of presence and of presence times place over a region says which objects are in it and
    where. The logits themselves would not do: their mean is dominated by the many empty pixels.
    The sum over the classes says where any object is: to follow and compare motions, no class is
    needed, and without it both are learned much sooner.

    Args:
      predicted: of `ObjectMap`, `[b t h w classes 3]`.

    Returns:
      float32 `[b t h w 3 * (classes + 1)]`: for each class, and last for twice the sum of all,
      probability of presence times `PRESENCE_GAIN`, and probability times place in the FRAME, `y x`
      from -1 to 1, times `PLACE_GAIN`.
    """
    size = predicted.shape[2:4]
    corner = jnp.stack(jnp.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1)  # [h w 2]
    place = (corner[:, :, None] + (predicted[..., 1:] + 1) / 2) / np.array(size) * 2 - 1
    presence = jax.nn.sigmoid(predicted[..., :1])
    parts = [presence * PRESENCE_GAIN, presence * place * PLACE_GAIN]
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
