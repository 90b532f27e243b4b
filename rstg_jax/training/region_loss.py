"""An auxiliary task for training: regions predict which objects they hold, where and how moving.

A clip's label is a weak signal about hundreds of region features. Where a data set knows its
objects (SyncMNIST generates them), the regions can be supervised directly; evaluation never uses
this head. Not in the paper: it lets the small demo learn in minutes.
"""

import jax
import jax.numpy as jnp

MOTION_UNIT = 1 / 16  # of the frame's side; about the root mean square step of SyncMNIST
PRESENCE_WEIGHT = 4.0


def targets(
    boxes: jax.Array, object_class: jax.Array, object_center: jax.Array, num_classes: int
) -> jax.Array:
    """Targets of the head.

    Args:
      boxes: regions as `y0 x0 y1 x1` in fractions of the frame, `[n 4]`.
      object_class: class of each object, int `[b o]`; no class twice in a clip.
      object_center: its centre `y x` in every frame, in fractions of the frame, `[b t o 2]`.
      num_classes: number of classes of objects.

    Returns:
      float32 `[b t n classes 5]`: 1 if an object of the class has its centre in the region, its
      place in the region from -1 to 1, and its motion since the frame before in `MOTION_UNIT`s
      (0 in the first frame); all 0 for absent objects.
    """
    center = object_center[:, :, None]  # [b t 1 o 2]
    start, end = boxes[:, None, :2], boxes[:, None, 2:]  # [n 1 2]
    place = (center - start) / (end - start) * 2 - 1
    motion = jnp.broadcast_to(motions(object_center)[:, :, None], place.shape)
    values = jnp.concatenate([jnp.ones_like(place[..., :1]), place, motion], axis=-1)
    values = jnp.where(inside(boxes, object_center)[..., None], values, 0)  # [b t n o 5]
    is_class = jax.nn.one_hot(object_class, num_classes)  # [b o classes]
    return jnp.einsum("btnov,boc->btncv", values, is_class)


def motions(object_center: jax.Array) -> jax.Array:
    """Motion since the frame before in `MOTION_UNIT`s, 0 in the first frame; `[b t o 2]`."""
    return jnp.diff(object_center, axis=1, prepend=object_center[:, :1]) / MOTION_UNIT


def inside(boxes: jax.Array, object_center: jax.Array) -> jax.Array:
    """Whether a region holds the centre of an object: `[n 4]`, `[b t o 2]` -> bool `[b t n o]`."""
    center = object_center[:, :, None]
    return ((center >= boxes[:, None, :2]) & (center < boxes[:, None, 2:])).all(-1)


def loss(predicted: jax.Array, target: jax.Array) -> jax.Array:
    """Loss of each clip, float32 `[b]`.

    Cross-entropy of presence, mean over everything, and the squared error of place and motion,
    mean over the objects that are present.

    Args:
      predicted: `[b t n classes * 5]`.
      target: see `targets`.
    """
    predicted = predicted.astype(jnp.float32).reshape(target.shape)
    present = target[..., 0]
    logits = predicted[..., 0]
    entropy = jax.nn.softplus(logits) - present * logits
    squares = jnp.square(predicted[..., 1:] - target[..., 1:]).sum(-1) * present
    axes = (1, 2, 3)
    mean_square = squares.sum(axes) / jnp.maximum(present.sum(axes), 1)
    return PRESENCE_WEIGHT * entropy.mean(axes) + mean_square
