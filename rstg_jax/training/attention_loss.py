"""An auxiliary task for training: nodes that hold the pair pay attention to each other.

Where each digit of the pair is alone in a region, the region should receive the messages of one
that holds the other digit: only these two say whether they move alike. To find its partner, a
region compares motions, which the label alone teaches late: until then every pair of the digits in
a video is as likely. Nodes that are objects are told so in every frame. Evaluation never uses
this. Not in the paper.
"""

import jax
import jax.numpy as jnp

from rstg_jax.training.region_loss import inside

LEAST = 1e-6  # attention that counts as none


def partners(boxes: jax.Array, object_center: jax.Array, object_in_pair: jax.Array) -> jax.Array:
    """Which regions should attend to which.

    Args:
      boxes: regions as `y0 x0 y1 x1` in fractions of the frame, `[n 4]`.
      object_center: centre `y x` of each object in every frame, in fractions of it, `[b t o 2]`.
      object_in_pair: whether it moves together with another object, bool `[b o]`.

    Returns:
      Whether region i holds the centre of one object of the pair and of no other object, and
      region j likewise of the other one, bool `[b t i j]`.
    """
    held = inside(boxes, object_center)  # [b t n o]
    lone = held & (held.sum(-1, keepdims=True) == 1) & object_in_pair[:, None, None]
    return _hold_different_ones(lone.astype(jnp.float32))


def object_partners(
    num_classes: int, object_class: jax.Array, object_in_pair: jax.Array, frames: int
) -> jax.Array:
    """Which nodes should attend to which, if a node is the object of a class.

    Args:
      num_classes: number of nodes.
      object_class: int `[b o]`.
      object_in_pair: whether it moves together with another object, bool `[b o]`.
      frames: number of frames t.

    Returns:
      Whether nodes i and j are the two classes of the pair, bool `[b t i j]`.
    """
    own = jax.nn.one_hot(object_class, num_classes, axis=1) * object_in_pair[:, None]  # [b i o]
    both = _hold_different_ones(own)
    return jnp.broadcast_to(both[:, None], (len(both), frames, num_classes, num_classes))


def _hold_different_ones(held: jax.Array) -> jax.Array:
    """Whether nodes i and j hold two different objects, bool `[... i j]`, from 0/1 `[... n o]`."""
    count = held.sum(-1)
    both = count[..., :, None] * count[..., None, :]
    return both - jnp.einsum("...io,...jo->...ij", held, held) > 0


def loss(attention: jax.Array, partner: jax.Array) -> jax.Array:
    """Loss of each clip, float32 `[b]`.

    Minus the logarithm of the attention that a node pays to all of its partners together: its
    mean over the space stages, and over the nodes and frames with partners.

    Args:
      attention: of receiver i to sender j in every space stage, `[k b t i j]`.
      partner: see `partners` and `object_partners`.
    """
    paid = (attention * partner).sum(-1)  # [k b t i]
    missing = -jnp.log(paid + LEAST).mean(0)
    asked = partner.any(-1)
    return jnp.where(asked, missing, 0).sum((1, 2)) / jnp.maximum(asked.sum((1, 2)), 1)
