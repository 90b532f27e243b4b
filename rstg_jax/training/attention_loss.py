"""An auxiliary task for training: regions of the pair pay attention to each other.

Where each digit of the pair is alone in a region, the region should receive the messages of one
that holds the other digit: only these two say whether they move alike. To find its partner, a
region compares motions, which the label alone teaches late: until then every pair of the digits in
a video is as likely. Evaluation never uses this. Not in the paper.
"""

import jax
import jax.numpy as jnp

from rstg_jax.training.region_loss import inside

FIRST_FRAME = 1  # from which frame on, from 0, motions can be known
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
    mine = lone.astype(jnp.float32)
    count = mine.sum(-1)
    both = count[..., :, None] * count[..., None, :]
    return both - jnp.einsum("btio,btjo->btij", mine, mine) > 0


def loss(attention: jax.Array, partner: jax.Array) -> jax.Array:
    """Loss of each clip, float32 `[b]`.

    Minus the logarithm of the attention that a region pays to all of its partners together: its
    mean over the space stages, and over the regions and frames with partners from `FIRST_FRAME` on.

    Args:
      attention: of receiver i to sender j in every space stage, `[k b t i j]`.
      partner: see `partners`.
    """
    partner = partner[:, FIRST_FRAME:]
    paid = (attention[:, :, FIRST_FRAME:] * partner).sum(-1)  # [k b t i]
    missing = -jnp.log(paid + LEAST).mean(0)
    asked = partner.any(-1)
    return jnp.where(asked, missing, 0).sum((1, 2)) / jnp.maximum(asked.sum((1, 2)), 1)
