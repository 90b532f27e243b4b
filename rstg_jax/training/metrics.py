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
ROWS = ("logits", "truth", "mask")  # are put one after the other; average precision needs them all


def batch_sums(logits: jax.Array, label: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """Sums over the real examples of one batch.

    Args:
      logits: [b classes].
      label: int [b], or 0/1 [b classes] where an example has a set of labels.
      mask: [b], 1 for a real example and 0 for padding.

    Returns:
      ``loss`` (cross-entropy, float32) and the int32 counts ``top1``, ``top5`` (with fewer than
      five classes: any) and ``count``. Equal logits rank by class index, as `argmax` has it. Of a
      set of labels the likeliest counts; an empty set is never right.
    """
    chex.assert_rank([logits, label, mask], [2, {1, 2}, 1])
    chex.assert_equal_shape_prefix([logits, label, mask], 1)
    real = mask > 0
    loss = losses.cross_entropy(logits, label)
    # A NaN is larger than nothing and would rank first.
    valid = real & ~jnp.isnan(logits).any(1)
    if label.ndim == 2:
        valid &= (label > 0).any(1)
        label = jnp.where(label > 0, logits, -jnp.inf).argmax(1)
    true = jnp.take_along_axis(logits, label[:, None], axis=1)  # [b 1]
    earlier = jnp.arange(logits.shape[1]) < label[:, None]
    rank = ((logits > true) | ((logits == true) & earlier)).sum(1)
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
    """Adds one batch's sums, fetched from the device, to the host's 64-bit totals.

    `ROWS` are put into lists instead.
    """
    out = dict(totals)
    for name, value in sums.items():
        array = np.asarray(value)
        if name in ROWS:
            out[name] = [*out.get(name, ()), array]
            continue
        wide = array.astype(np.int64 if np.issubdtype(array.dtype, np.integer) else np.float64)
        out[name] = out.get(name, 0) + (wide if wide.ndim else wide.item())
    return out


def finalize(totals: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics of a whole split from its totals.

    Returns:
      `means` and ``examples``; and ``confusion``, or of examples with sets of labels
      ``average_precision`` of every class (None without examples), its mean ``mAP`` over the others
      and the number of examples ``positives`` of every class.
    """
    result = means(totals) | {"examples": totals["count"]}
    if "confusion" in totals:
        return result | {"confusion": totals["confusion"]}
    logits, truth, mask = (np.concatenate(totals[name]) for name in ROWS)
    logits, truth = logits[mask > 0], truth[mask > 0]
    each = [average_precision(*columns) for columns in zip(logits.T, truth.T, strict=True)]
    known = [value for value in each if value is not None]
    return result | {
        "mAP": float(np.mean(known)) if known else 0.0,
        "average_precision": each,
        "positives": truth.sum(0, dtype=np.int64),
    }


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float | None:
    """Mean precision of a class at the ranks of its examples, without interpolation.

    The precision at every threshold, weighted by the recall that it adds; equal scores share a
    threshold. The same as `sklearn.metrics.average_precision_score`.

    Args:
      scores: float `[n]`, the higher the likelier.
      truth: 0/1 `[n]`.

    Returns:
      From 0 to 1; None without an example of the class.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # of equal scores
    found = np.cumsum(truth[order], dtype=np.float64)[ends]
    if not found[-1]:
        return None
    return float((found / (ends + 1) * np.diff(found, prepend=0)).sum() / found[-1])


def means(totals: Mapping[str, Any]) -> dict[str, float]:
    """Divides the scalar totals by their count."""
    count = max(totals["count"], 1)
    scalars = {k: v for k, v in totals.items() if k != "count" and k not in ROWS}
    return {k: v / count for k, v in scalars.items() if np.ndim(v) == 0}
