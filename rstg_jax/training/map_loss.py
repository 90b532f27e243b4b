"""An auxiliary task for training: pixels of the last map predict the objects centred in them.

The label of a clip is a weak signal about single frames. Where a data set knows its objects
(SyncMNIST generates them), the head `rstg_jax.models.object_map.ObjectMap` is supervised in every
frame. Evaluation needs this head only if the model reads its channels. Not in the paper.
"""

import jax
import jax.numpy as jnp
import numpy as np


def targets(
    map_size: tuple[int, int], object_class: jax.Array, object_center: jax.Array, num_classes: int
) -> jax.Array:
    """Targets of the head.

    Args:
      map_size: height and width of the map.
      object_class: class of each object, int `[b o]`; no class twice in a clip.
      object_center: its centre `y x` in every frame, in fractions of the frame, `[b t o 2]`.
      num_classes: number of object classes.

    Returns:
      float32 `[b t h w classes 3]`: 1 if an object of the class has its centre in the pixel, and
      its place in the pixel from -1 to 1; all 0 for absent objects.
    """
    size = np.array(map_size, np.float32)
    scaled = object_center * size  # [b t o 2]
    pixel = jnp.clip(jnp.floor(scaled), 0, size - 1)
    place = (scaled - pixel) * 2 - 1
    values = jnp.concatenate([jnp.ones_like(place[..., :1]), place], axis=-1)  # [b t o 3]
    rows, columns = (
        jax.nn.one_hot(pixel[..., axis].astype(jnp.int32), map_size[axis]) for axis in (0, 1)
    )  # [b t o h], [b t o w]
    is_class = jax.nn.one_hot(object_class, num_classes)  # [b o classes]
    return jnp.einsum("btov,btoh,btow,boc->bthwcv", values, rows, columns, is_class)


def loss(predicted: jax.Array, target: jax.Array) -> jax.Array:
    """Loss of each clip, float32 `[b]`.

    The cross-entropy of presence in all pixels plus the squared errors of place, both divided by
    the number of objects in all frames.

    Args:
      predicted: of `ObjectMap`, `[b t h w classes 3]`.
      target: see `targets`.
    """
    present, logits = target[..., 0], predicted[..., 0]
    entropy = jax.nn.softplus(logits) - present * logits
    squares = jnp.square(predicted[..., 1:] - target[..., 1:]).sum(-1) * present
    axes = (1, 2, 3, 4)
    return (entropy + squares).sum(axes) / jnp.maximum(present.sum(axes), 1)
