"""The auxiliary task against a plain loop over clips, frames, regions and objects."""

import jax.numpy as jnp
import numpy as np

from rstg_jax.rstg.region_graph import RegionGraph
from rstg_jax.training import region_loss

BOXES = RegionGraph((2, 1)).boxes


def example(seed: int = 0):
    """Two clips of three frames with two objects each, out of four classes."""
    rng = np.random.default_rng(seed)
    centers = rng.uniform(0.01, 0.99, (2, 3, 2, 2)).astype(np.float32)
    return np.array([[3, 0], [1, 2]]), centers


def looped_targets(classes, centers):
    target = np.zeros((2, 3, len(BOXES), 4, 5))
    for clip, frame, region, item in np.ndindex(2, 3, len(BOXES), 2):
        top, left, bottom, right = BOXES[region]
        y, x = centers[clip, frame, item]
        if not (top <= y < bottom and left <= x < right):
            continue
        before = centers[clip, max(frame - 1, 0), item]
        place = [2 * (y - top) / (bottom - top) - 1, 2 * (x - left) / (right - left) - 1]
        motion = 16 * (centers[clip, frame, item] - before)
        target[clip, frame, region, classes[clip, item]] = [1, *place, *motion]
    return target


def test_targets():
    classes, centers = example()
    expected = looped_targets(classes, centers)
    got = region_loss.targets(jnp.asarray(BOXES), jnp.asarray(classes), jnp.asarray(centers), 4)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert (expected[:, :, -1, :, 0].sum(-1) == 2).all()  # the whole frame holds both objects


def test_loss():
    target = looped_targets(*example())
    predicted = np.random.default_rng(1).normal(size=(2, 3, len(BOXES), 20)).astype(np.float32)
    got = region_loss.loss(jnp.asarray(predicted), jnp.asarray(target))
    for clip in range(2):
        values = predicted[clip].reshape(-1, 5).astype(np.float64)
        wanted = target[clip].reshape(-1, 5)
        p = 1 / (1 + np.exp(-values[:, 0]))
        entropy = -np.where(wanted[:, 0] == 1, np.log(p), np.log(1 - p))
        squares = ((values[:, 1:] - wanted[:, 1:]) ** 2).sum(-1)[wanted[:, 0] == 1]
        np.testing.assert_allclose(got[clip], 4 * entropy.mean() + squares.mean(), rtol=1e-5)


def test_loss_of_a_clip_without_objects_is_finite():
    empty = jnp.zeros((1, 3, 5, 4, 5))
    assert np.isfinite(region_loss.loss(jnp.zeros((1, 3, 5, 20)), empty)).all()
