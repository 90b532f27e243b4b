"""Losses against plain NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rstg_jax.training import losses
from rstg_jax.training.losses import LossConfig


def numpy_cross_entropy(logits, label, smoothing=0.0):
    logits = logits.astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    classes = logits.shape[-1]
    target = np.eye(classes)[label] * (1 - smoothing) + smoothing / classes
    return -(target * np.log(p)).sum(-1)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 4)).astype(np.float32)
    frames = rng.normal(size=(6, 5, 4)).astype(np.float32)
    label = rng.integers(0, 4, 6)
    mask = np.array([1, 1, 0, 1, 0, 1], np.float32)
    return logits, frames, label, mask


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(batch, smoothing):
    logits, _, label, _ = batch
    got = losses.cross_entropy(jnp.array(logits), jnp.array(label), smoothing)
    np.testing.assert_allclose(got, numpy_cross_entropy(logits, label, smoothing), rtol=1e-6)


def binary_cross_entropy(logits, labels, smoothing=0.0):
    """Of every class by itself, and their mean."""
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    target = labels * (1 - smoothing) + smoothing / 2
    return -(target * np.log(p) + (1 - target) * np.log(1 - p)).mean(-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_sets_of_labels(batch, smoothing):
    logits, frames, _, mask = batch
    labels = np.array([[0, 0, 0, 0], [1, 0, 1, 1], [1, 1, 1, 1], *np.eye(4)[:3]], np.int32)
    got = losses.cross_entropy(jnp.array(logits), jnp.array(labels), smoothing)
    each = binary_cross_entropy(logits, labels, smoothing)
    np.testing.assert_allclose(got, each, rtol=1e-6)
    one = losses.cross_entropy(jnp.array(logits), jnp.array(labels.argmax(1)), smoothing)
    assert (np.abs(one - each) > 0.1).any()  # softmax is something else
    config = LossConfig("sum", smoothing, 0.7, 0.3, 2, kind="sigmoid")
    out = {"frame_logits": jnp.array(frames)}
    _, total = losses.objective(
        config, jnp.array(logits), out, {"label": jnp.array(labels), "mask": mask}
    )
    per_frame = binary_cross_entropy(frames, labels[:, None], smoothing)[:, 2:].mean(1)
    np.testing.assert_allclose(total, ((0.7 * each + 0.3 * per_frame) * mask).sum(), rtol=1e-6)
    extreme = losses.cross_entropy(jnp.array([[200.0, -200.0]]), jnp.array([[1, 1]]))
    np.testing.assert_allclose(extreme, 100)


def test_probabilities():
    logits = jnp.array([[0.0, np.log(3.0)]])
    np.testing.assert_allclose(losses.probabilities(logits, "softmax"), [[0.25, 0.75]], rtol=1e-6)
    np.testing.assert_allclose(losses.probabilities(logits, "sigmoid"), [[0.5, 0.75]], rtol=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("clip_weight, frame_weight", [(1.0, 0.0), (0.7, 0.3), (0.0, 0.3)])
def test_objective_counts_real_examples_only(batch, reduction, clip_weight, frame_weight):
    logits, frames, label, mask = batch
    logits[mask == 0] = np.inf  # padding may hold anything
    config = LossConfig(reduction, 0.1, clip_weight, frame_weight, 2)
    out = {"frame_logits": jnp.array(frames)}
    real_batch = {"label": jnp.array(label), "mask": mask}
    value, total = losses.objective(config, jnp.array(logits), out, real_batch)
    real = mask > 0
    each = clip_weight * numpy_cross_entropy(logits[real], label[real], 0.1)
    per_frame = numpy_cross_entropy(frames[real], np.repeat(label[real, None], 5, 1), 0.1)
    each = each + frame_weight * per_frame[:, 2:].mean(1)
    np.testing.assert_allclose(total, each.sum(), rtol=1e-6)
    np.testing.assert_allclose(value, each.sum() if reduction == "sum" else each.mean(), rtol=1e-6)


def test_labels_of_frames(batch):
    logits, frames, label, mask = batch
    of_frames = np.random.default_rng(1).integers(0, frames.shape[2], frames.shape[:2])
    config = LossConfig(clip_weight=0.0, frame_weight=1.0, frame_start=2, frame_target="frame")
    given = {"label": label, "frame_label": of_frames, "mask": mask}
    assert set(given) <= set(config.batch_keys)
    _, total = losses.objective(config, jnp.array(logits), {"frame_logits": frames}, given)
    each = numpy_cross_entropy(frames, of_frames)[:, 2:].mean(1)[mask > 0]
    np.testing.assert_allclose(total, each.sum(), rtol=1e-6)


def test_gradient_of_mean_is_that_of_sum_over_the_count(batch):
    logits, _, label, mask = batch

    def loss(x, reduction):
        real_batch = {"label": jnp.array(label), "mask": mask}
        return losses.objective(LossConfig(reduction), x, {}, real_batch)[0]

    mean, total = (jax.grad(loss)(jnp.array(logits), r) for r in ("mean", "sum"))
    np.testing.assert_allclose(total, mean * mask.sum(), rtol=1e-6)
    assert np.all(np.asarray(mean)[mask == 0] == 0)


def test_bfloat16_logits_are_reduced_in_float32(batch):
    logits, _, label, _ = batch
    low = jnp.array(logits, jnp.bfloat16)
    got = losses.cross_entropy(low, jnp.array(label))
    assert got.dtype == jnp.float32
    wanted = numpy_cross_entropy(np.asarray(low.astype(jnp.float32)), label)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_impossible_configurations_are_refused(batch):
    logits, frames, label, mask = batch
    with pytest.raises(ValueError, match="label_smoothing"):
        LossConfig(label_smoothing=1.0)
    with pytest.raises(ValueError, match="all weights of the loss are 0"):
        LossConfig(clip_weight=0.0)
    with pytest.raises(ValueError, match="leaves none of the 5 frames"):
        config = LossConfig(frame_weight=1.0, frame_start=5)
        losses.check_starts(config, {"frame_logits": frames})
