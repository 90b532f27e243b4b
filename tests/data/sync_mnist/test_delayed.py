"""Delayed synchrony: its law of motion, its light frames, and what they give away."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from rstg_jax import data
from rstg_jax.data import object_maps, random_stream
from rstg_jax.data.sync_mnist import canvas, delayed, generator, generator_jax
from rstg_jax.errors import UserError

MAPS = data.SyncMNISTConfig(
    test_source="online",
    num_digits=3,
    classes=(0, 1, 2, 3),
    num_frames=32,
    frame_size=8,
    none_probability=1 / 7,
    delay=8,
    frames="maps",
    num_test=500,
)


@functools.cache
def batch(**changes):
    config = dataclasses.replace(MAPS, **changes)
    return config.open("test").batch(np.arange(config.num_test))


def steps_repeat(steps, delay):
    """Share of the steps of digit j that are those of digit i, `delay` frames before: `[b i j]`."""
    later, earlier = steps[:, delay:], steps[:, : steps.shape[1] - delay]
    return (earlier[:, :, :, None] == later[:, :, None]).all(-1).mean(1)


def oracle(classes, steps, delay, num_classes):
    """Labels from steps: the pair that repeats the most steps, "none" if no pair does so often."""
    same = steps_repeat(steps, delay)
    rows, n = np.arange(len(same)), same.shape[1]
    same[:, np.arange(n), np.arange(n)] = 0
    i, j = np.unravel_index(same.reshape(len(same), -1).argmax(1), (n, n))
    labels = generator.pair_label(classes[rows, i], classes[rows, j])
    return np.where(same[rows, i, j] > 0.5, labels, num_classes - 1)


@pytest.mark.parametrize("delay", [0, 1, 8, 24])
def test_one_digit_repeats_the_steps_of_the_other(delay):
    videos = batch(delay=delay)
    steps = np.diff(videos["coords"], axis=1)
    pair = videos["label"] < 6
    same = steps_repeat(steps, delay)
    assert (same[pair, 0, 1] == 1).all()
    assert (same[~pair, 0, 1] < 0.7).all() and (same[:, 0, 2] < 0.7).all()
    if delay:  # neither at once, nor with any other delay
        assert (steps_repeat(steps, 0)[:, 0, 1] < 0.7).all()
        assert (steps_repeat(steps, delay + 1)[:, 0, 1] < 0.7).all()
    assert 0.09 < 1 - pair.mean() < 0.2  # 1/7


def test_all_digits_wander_alike():
    """Places, and sides of their squares, do not tell the pair from the others."""
    coords = batch(num_frames=200, delay=64)["coords"]  # [b t n 2]
    assert coords.min() == 0 and coords.max() == canvas.MAX_CORNER
    extent = coords.max(1) - coords.min(1)
    assert (extent <= delayed.BOX).all() and (extent >= delayed.BOX - 6).mean() > 0.99
    mean = coords.mean((0, 1, 3))
    assert np.ptp(mean) < 1.5 and abs(mean.mean() - canvas.MAX_CORNER / 2) < 0.8
    assert np.abs(np.diff(coords, axis=1)).max() == canvas.MAX_STEP


def test_an_oracle_reads_the_label_from_the_maps_alone():
    """Its accuracy is 100%: places are the centres of mass of the spots."""
    videos = batch()
    maps = videos["video"].astype(float)  # [b t h w c]
    places = [np.einsum("bthwc,h->btc", maps, np.arange(8.0))]
    places.append(np.einsum("bthwc,w->btc", maps, np.arange(8.0)))
    mass = maps.sum((2, 3))
    there = mass[:, 0] > 0  # [b c]
    assert (there.sum(1) == 3).all()
    classes = np.nonzero(there)[1].reshape(-1, 3)
    center = np.stack(places, -1) / np.maximum(mass, 1)[..., None]
    center = np.take_along_axis(center, classes[:, None, :, None], 2)
    coords = np.rint((center + 0.5) * 100 / 8 - 14)  # back to the canvas
    found = oracle(classes, np.diff(coords, axis=1), 8, 7)
    assert (found == videos["label"]).mean() == 1
    order = np.argsort(videos["object_class"], 1)
    expected = np.take_along_axis(videos["coords"], order[:, None, :, None], 2)
    np.testing.assert_array_equal(coords, expected)
    # One frame later than the truth the oracle knows nothing.
    wrong = oracle(classes, np.diff(coords, axis=1), 9, 7)
    assert (wrong == videos["label"]).mean() < 0.3


def test_maps_are_drawn_by_the_definition():
    places = np.array([[[0, 0], [255, 510]], [[100, 300], [1785, 1700]]])  # [t n 2]
    maps = object_maps.draw(np, places, np.array([1, 0]), 3, 8)
    assert maps.shape == (2, 8, 8, 3) and maps.dtype == np.uint8
    assert maps[0, 0, 0].tolist() == [0, 255, 0] and maps[0, 1, 2].tolist() == [255, 0, 0]
    assert maps[0].astype(int).sum() == 510
    spot = maps[1, :2, 1:3, 1] / 255  # 100/255 of a row down, 45/255 of a column to the right
    expected = np.outer([155 / 255, 100 / 255], [210 / 255, 45 / 255])
    np.testing.assert_allclose(spot, expected, atol=0.5 / 255)
    assert maps[1, 7, 6:, 0].tolist() == [85, 170]


def test_jax_makes_the_same_videos_from_the_same_bits():
    config = dataclasses.replace(MAPS, num_frames=20, delay=5)
    spec, indices = config.spec, np.arange(40)
    digits = generator.Digits(np.zeros((8, 28, 28), np.uint8), np.arange(8) % 4)
    expected = generator.sample(spec, digits, indices, seed=3, split="test")
    bits = random_stream.words(3, "test", indices, spec.num_draws).astype(np.uint32)
    sprites = generator_jax.sprites(spec, digits)
    lead = np.argsort(sprites.source)[expected.images[:, 0]]
    draw = functools.partial(generator_jax.draw, spec, sprites)
    got = jax.jit(jax.vmap(draw))(lead, bits)
    np.testing.assert_array_equal(got.coords, expected.coords)
    np.testing.assert_array_equal(got.label, expected.labels)

    source = dataclasses.replace(config, train_source="device").open("train")
    made = source.batch(np.arange(6))
    kinds = (made["object_class"], 4, 8)
    places = canvas.map_places(made["coords"], 8)
    np.testing.assert_array_equal(made["video"], object_maps.draw(np, places, *kinds))
    assert made["video"].shape[1:] == config.clip_shape


def test_the_delay_is_part_of_what_is_recorded():
    assert MAPS.open("test").provenance["delay"] == 8
    assert "delay" not in dataclasses.replace(MAPS, delay=None).open("test").provenance
    assert (
        "make the same step 8 frames apart"
        in MAPS.describe(("a",) * 7, {"train": {}, "test": {}})[0]
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"delay": 32}, r"delay=32 must lie in 0\.\.31"),
        ({"delay": -1}, "delay=-1 must lie in"),
        ({"frames": "map"}, "'frames': 'map' is not one of pictures, maps"),
        ({"frame_size": 3}, "frame_size=3 must be at least 4 for maps"),
    ],
)
def test_impossible_settings_are_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        dataclasses.replace(MAPS, **changes)


def test_films_are_no_maps():
    with pytest.raises(UserError, match="frames=maps are no pictures"):
        MAPS.read_video(None)
