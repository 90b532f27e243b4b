"""The auxiliary task on the last feature map against a plain loop over its pixels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import sync_mnist
from rstg_jax.errors import UserError
from rstg_jax.models import object_map
from rstg_jax.training import losses, map_loss
from rstg_jax.training.losses import LossConfig

ROWS, COLUMNS, CLASSES = 3, 4, 5
CLASS = np.array([[3, 0], [1, 2]])


def centers(seed: int = 0):
    """Centres of two objects in three frames of two clips, one of them at the very edge."""
    centers = np.random.default_rng(seed).uniform(0.01, 0.99, (2, 3, 2, 2)).astype(np.float32)
    centers[1, 2, 1] = [0.5, 1.0]
    return centers


def looped_targets(object_class, object_center):
    target = np.zeros((2, 3, ROWS, COLUMNS, CLASSES, 3))
    for clip, frame, item in np.ndindex(2, 3, 2):
        y, x = object_center[clip, frame, item] * [ROWS, COLUMNS]
        row, column = min(int(y), ROWS - 1), min(int(x), COLUMNS - 1)
        place = [2 * (y - row) - 1, 2 * (x - column) - 1]
        target[clip, frame, row, column, object_class[clip, item]] = [1, *place]
    return target


def test_targets():
    expected = looped_targets(CLASS, centers())
    got = map_loss.targets((ROWS, COLUMNS), jnp.asarray(CLASS), jnp.asarray(centers()), CLASSES)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert (expected[..., 0].sum((2, 3, 4)) == 2).all()


def test_loss():
    target = looped_targets(CLASS, centers())
    predicted = np.random.default_rng(1).normal(size=target.shape).astype(np.float32)
    got = map_loss.loss(jnp.asarray(predicted), jnp.asarray(target))
    for clip in range(2):
        expected = 0.0
        for where in np.ndindex(3, ROWS, COLUMNS, CLASSES):
            present, *place = target[clip][where]
            logit, *guess = predicted[clip][where].astype(np.float64)
            p = 1 / (1 + np.exp(-logit))
            expected -= np.log(p) if present else np.log(1 - p)
            expected += present * np.square(np.subtract(guess, place)).sum()
        np.testing.assert_allclose(got[clip], expected / 6, rtol=1e-5)  # two objects, three frames


def test_loss_of_a_clip_without_objects_is_finite():
    empty = jnp.zeros((1, 3, ROWS, COLUMNS, CLASSES, 3))
    assert np.isfinite(map_loss.loss(empty, empty)).all()


def test_channels_of_the_targets_are_the_places_in_the_frame():
    target = map_loss.targets((ROWS, COLUMNS), CLASS, centers(), CLASSES)
    certain = target.at[..., 0].set((target[..., 0] * 2 - 1) * 1e3)
    seen = object_map.channels(certain).sum((2, 3)).reshape(2, 3, CLASSES + 1, 3)
    seen /= np.array([object_map.PRESENCE_GAIN, *[object_map.PLACE_GAIN] * 2])
    for clip, frame, item in np.ndindex(2, 3, 2):
        presence, *place = seen[clip, frame, CLASS[clip, item]]
        np.testing.assert_allclose(presence, 1)
        np.testing.assert_allclose(place, centers()[clip, frame, item] * 2 - 1, atol=1e-5)
    np.testing.assert_allclose(seen[:, :, -1], 2 * seen[:, :, :-1].sum(2), atol=1e-5)


def test_objective_adds_the_weighted_task():
    target = jnp.asarray(looped_targets(CLASS, centers()), jnp.float32)
    predicted = jax.random.normal(jax.random.key(0), target.shape)
    batch = {
        "label": jnp.array([0, 1]),
        "mask": jnp.array([1.0, 0.0]),
        "object_class": jnp.asarray(CLASS),
        "object_center": jnp.asarray(centers()),
    }
    logits, out = jnp.zeros((2, 4)), {"object_map": predicted}
    value, _ = losses.objective(LossConfig(map_weight=0.5), logits, out, batch)
    expected = np.log(4) + 0.5 * map_loss.loss(predicted, target)[0]
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_the_head_must_have_the_classes_of_the_data():
    tiny = sync_mnist.tiny()
    with pytest.raises(UserError, match=r"model\.map_classes=0 must be 3"):
        dataclasses.replace(tiny, loss=LossConfig(map_weight=1.0))
