"""Metrics as masked sums: added up over batches, divided once at the end.

Sums are float32 and counts int32 on the device; the host adds batches up in 64 bits. Padding has
mask 0, so every example counts exactly once on any number of devices.
"""

from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rstg_jax.training import losses

TOP_K = 5


def batch_sums(logits: jax.Array, label: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """Sums over the real examples of one batch.

    Args:
      logits: [b classes].
      label: int [b].
      mask: [b], 1 for a real example and 0 for padding.

    Returns:
      ``loss`` (cross-entropy, float32) and the int32 counts ``top1``, ``top5`` (with fewer than
      five classes: any) and ``count``. Equal logits rank by class index, as `argmax` has it.
    """
    chex.assert_rank([logits, label, mask], [2, 1, 1])
    chex.assert_equal_shape_prefix([logits, label, mask], 1)
    real = mask > 0
    loss = losses.cross_entropy(logits, label)
    true = jnp.take_along_axis(logits, label[:, None], axis=1)  # [b 1]
    earlier = jnp.arange(logits.shape[1]) < label[:, None]
    rank = ((logits > true) | ((logits == true) & earlier)).sum(1)
    # A NaN is larger than nothing and would rank first.
    valid = real & ~jnp.isnan(logits).any(1)
    return {
        "loss": jnp.where(real, loss, 0).sum(),
        "top1": (valid & (rank < 1)).sum(dtype=jnp.int32),
        "top5": (valid & (rank < TOP_K)).sum(dtype=jnp.int32),
        "count": real.sum(dtype=jnp.int32),
    }


def confusion(logits: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """Counts the real examples by (true class, predicted class): int32 [classes classes]."""
    classes = logits.shape[1]
    real = (mask > 0).astype(jnp.int32)
    zeros = jnp.zeros((classes, classes), jnp.int32)
    return zeros.at[label, logits.argmax(1)].add(real)


def add(totals: Mapping[str, Any], sums: Mapping[str, Any]) -> dict[str, Any]:
    """Adds one batch's sums, fetched from the device, to the host's 64-bit totals."""
    out = dict(totals)
    for name, value in sums.items():
        array = np.asarray(value)
        wide = array.astype(np.int64 if np.issubdtype(array.dtype, np.integer) else np.float64)
        out[name] = out.get(name, 0) + (wide if wide.ndim else wide.item())
    return out


def finalize(totals: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics of a whole split from its totals: `means`, ``examples`` and ``confusion``."""
    return means(totals) | {"examples": totals["count"], "confusion": totals["confusion"]}


def means(totals: Mapping[str, Any]) -> dict[str, float]:
    """Divides the scalar totals by their count."""
    count = max(totals["count"], 1)
    return {k: v / count for k, v in totals.items() if k != "count" and np.ndim(v) == 0}
