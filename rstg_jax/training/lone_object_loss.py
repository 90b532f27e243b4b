"""An auxiliary task for training: regions with ONE object say how it moves, and if with another.

What matters about motion does not depend on what it is that moves. The task of
`rstg_jax.training.region_loss` teaches motion for each class by itself; here every class teaches
the same three outputs, which are learned several times sooner. Evaluation never uses this head. Not
in the paper.
"""

import jax
import jax.numpy as jnp

from rstg_jax.training.region_loss import inside, motions

FIRST_FRAME = 2  # from which frame on, from 0, a region is asked whether its object is in the pair


def targets(
    boxes: jax.Array, object_center: jax.Array, object_in_pair: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Targets of the head.

    Args:
      boxes: regions as `y0 x0 y1 x1` in fractions of the frame, `[n 4]`.
      object_center: centre `y x` of each object in every frame, in fractions of it, `[b t o 2]`.
      object_in_pair: whether it moves together with another object, bool `[b o]`.

    Returns:
      Whether a region holds the centre of exactly one object, bool `[b t n]`; and float32
      `[b t n 3]`, of the objects in it: the number of those in the pair, and the sum of their
      motions, see `rstg_jax.training.region_loss.motions`.
    """
    held = inside(boxes, object_center)  # [b t n o]
    motion = motions(object_center)
    paired = jnp.broadcast_to(object_in_pair[:, None, :, None], (*motion.shape[:-1], 1))
    values = jnp.concatenate([paired.astype(jnp.float32), motion], axis=-1)  # [b t o 3]
    return held.sum(-1) == 1, jnp.einsum("btno,btov->btnv", held.astype(jnp.float32), values)


def loss(predicted: jax.Array, lone: jax.Array, target: jax.Array) -> jax.Array:
    """Loss of each clip, float32 `[b]`.

    The squared error of motion from the second frame on plus the cross-entropy of being in the pair
    from `FIRST_FRAME` on, each a mean over the regions with one object.

    Args:
      predicted: `[b t n 3]`, logit and motion.
      lone: see `targets`, bool `[b t n]`.
      target: see `targets`, `[b t n 3]`.
    """
    logits = predicted[..., 0]
    entropy = jax.nn.softplus(logits) - target[..., 0] * logits
    return motion_loss(predicted[..., 1:], lone, target) + mean(entropy, lone, FIRST_FRAME)


def motion_loss(predicted: jax.Array, lone: jax.Array, target: jax.Array) -> jax.Array:
    """The part of `loss` that asks for the motion, of predictions `[b t n 2]`."""
    squares = jnp.square(predicted - target[..., 1:]).sum(-1)
    return mean(squares, lone, 1)


def mean(values: jax.Array, lone: jax.Array, start: int) -> jax.Array:
    """Mean over the regions with one object in the frames from `start` on: `[b t n]` -> `[b]`."""
    counted = lone[:, start:]
    total = jnp.where(counted, values[:, start:], 0).sum((1, 2))
    return total / jnp.maximum(counted.sum((1, 2)), 1)
