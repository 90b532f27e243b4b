"""Masked sums against counting one example after the other."""

import jax.numpy as jnp
import numpy as np

from rstg_jax.training import metrics
from tests.training.test_losses import numpy_cross_entropy


def test_sums_and_confusion_count_every_example_exactly_once():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(23, 9)).astype(np.float32)
    label = rng.integers(0, 9, 23)
    totals = {}
    for start in range(0, 24, 8):  # three batches of 8, the last with a row of padding
        rows = np.minimum(np.arange(start, start + 8), 22)
        mask = (np.arange(start, start + 8) < 23).astype(np.float32)
        args = (jnp.array(logits[rows]), jnp.array(label[rows]), jnp.array(mask))
        sums = metrics.batch_sums(*args) | {"confusion": metrics.confusion(*args)}
        totals = metrics.add(totals, sums)
    order = np.argsort(-logits, axis=1)
    confusion = np.zeros((9, 9), int)
    for i in range(23):
        confusion[label[i], order[i, 0]] += 1
    assert totals["count"] == 23
    assert totals["top1"] == sum(label[i] == order[i, 0] for i in range(23))
    assert totals["top5"] == sum(label[i] in order[i, :5] for i in range(23))
    np.testing.assert_array_equal(totals["confusion"], confusion)
    assert totals["confusion"].dtype == np.int64
    means = metrics.means(totals)
    assert set(means) == {"loss", "top1", "top5"}
    np.testing.assert_allclose(means["loss"], numpy_cross_entropy(logits, label).mean(), rtol=1e-6)
    assert means["top1"] == np.trace(confusion) / 23


def test_ties_rank_by_class_index_and_nan_is_never_right():
    logits = jnp.array([[1.0, 1, 1], [1, 1, 1], [np.nan, 0, 0], [0, np.nan, 0]])
    label = jnp.array([0, 1, 0, 0])
    sums = metrics.batch_sums(logits, label, jnp.ones(4))
    assert int(sums["top1"]) == 1  # the first only
    assert int(sums["top5"]) == 2  # three classes: any rank counts, but no NaN does


def test_sums_are_added_in_64_bits():
    totals = {}
    for _ in range(3):
        totals = metrics.add(totals, {"count": np.int32(2**30), "loss": np.float32(0.1)})
    assert totals["count"] == 3 * 2**30
    assert totals["loss"] == 3 * float(np.float32(0.1))
