"""Masked sums against counting one example after the other."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

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


# --- sets of labels -------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [3, 1000])
def test_average_precision_is_that_of_scikit_learn(levels):
    rng = np.random.default_rng(levels)
    for share in (0.02, 0.3, 0.9, 1.0):
        scores = rng.integers(0, levels, 200).astype(np.float32)  # with few levels many are equal
        truth = (rng.random(200) <= share).astype(np.int32)
        truth[7] = 1
        got = metrics.average_precision(scores, truth)
        assert got == pytest.approx(average_precision_score(truth, scores), rel=1e-12)
    # Of different scores: the mean of the precision at each example of the class.
    assert metrics.average_precision(np.array([4, 3, 2, 1.0]), np.array([1, 0, 0, 1])) == 0.75
    assert metrics.average_precision(np.ones(4), np.array([0, 1, 0, 0])) == 0.25
    assert metrics.average_precision(np.ones(4), np.zeros(4)) is None


def test_metrics_of_sets_of_labels():
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(23, 6)).astype(np.float32)
    labels = (rng.random((23, 6)) < 0.3).astype(np.int32)
    labels[:, 4], labels[5] = 0, 0  # a class without videos, a video without classes
    totals = {}
    for start in range(0, 24, 8):
        rows = np.minimum(np.arange(start, start + 8), 22)
        mask = (np.arange(start, start + 8) < 23).astype(np.float32)
        args = (jnp.array(logits[rows]), jnp.array(labels[rows]), jnp.array(mask))
        batch = dict(zip(metrics.ROWS, (args[0], args[1], args[2]), strict=True))
        totals = metrics.add(totals, metrics.batch_sums(*args) | batch)
    found = metrics.finalize(totals)
    order = np.argsort(-logits, axis=1)
    top1, top5 = (
        np.mean([any(labels[i, order[i, :k]]) for i in range(23)]) for k in (1, metrics.TOP_K)
    )
    assert (found["top1"], found["top5"]) == (top1, top5)
    assert labels[5].sum() == 0 and top5 < 1
    each = [average_precision_score(labels[:, c], logits[:, c]) for c in (0, 1, 2, 3, 5)]
    assert found["average_precision"].pop(4) is None
    assert found["average_precision"] == pytest.approx(each, rel=1e-6)
    assert found["mAP"] == pytest.approx(np.mean(each), rel=1e-6)
    assert found["positives"].tolist() == labels.sum(0).tolist()
    assert found["examples"] == 23 and "confusion" not in found
