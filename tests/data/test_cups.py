"""Cups: the game against a plain simulation, and what it gives away."""

import dataclasses
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rstg_jax import data
from rstg_jax.data import cups, random_stream
from rstg_jax.data.sync_mnist import generator_jax
from rstg_jax.errors import UserError

GAME = data.CupsConfig(num_frames=64, num_swaps=10, num_test=600)


def batch(config):
    return config.open("test").batch(np.arange(config.num_test))


def follow(video, num_cups):
    """The ball's place at the end, by following the nearest spot from frame to frame.

    Reads the maps alone: the cups of a frame are the whole spots of their channel.
    """
    ball, cup = video[..., 0].astype(float), video[..., 1].astype(float)
    rows, columns = np.mgrid[: ball.shape[1], : ball.shape[2]]
    here = np.array([(ball[0] * rows).sum(), (ball[0] * columns).sum()]) / ball[0].sum()
    for frame in cup[1:]:
        nearest, best = here, np.inf
        for y, x in np.ndindex(frame.shape[0] - 1, frame.shape[1] - 1):
            spot = frame[y : y + 2, x : x + 2]
            if abs(spot.sum() - 255) < 3:  # a whole spot
                ys, xs = spot.sum(1), spot.sum(0)
                place = np.array([y + ys[1] / ys.sum(), x + xs[1] / xs.sum()])
                if (distance := np.abs(place - here).sum()) < best:
                    nearest, best = place, distance
        here = nearest
    return int((here[1] + 0.5) * num_cups // frame.shape[1])


def test_following_the_cup_gives_the_label():
    """An oracle that reads the maps: 100%. Cups of small steps, so that the nearest is the same."""
    config = dataclasses.replace(GAME, num_frames=90, swap_frames=8, num_test=40)
    videos = batch(config)
    found = [follow(video, 3) for video in videos["video"]]
    assert found == videos["label"].tolist()
    # From the third frame on nothing tells which cup to follow.
    hidden = videos["video"].copy()
    hidden[:, 0, ..., 0] = hidden[0, 0, ..., 0]
    found = [follow(video, 3) for video in hidden]
    assert np.mean(found == videos["label"]) < 0.7


def test_the_ball_is_under_its_cup_all_along():
    videos = batch(GAME)
    start, end = videos["ball"][:, 0], videos["ball"][:, -1]
    np.testing.assert_array_equal(np.floor(end[:, 1] * 3), videos["label"])
    np.testing.assert_allclose(start[:, 0], 0.5, atol=1e-3)
    assert (np.ptp(videos["ball"][..., 0], axis=1) > 0.1).mean() > 0.9  # it leaves the row
    np.testing.assert_array_equal(videos["frame_label"][:, -1], videos["label"])
    np.testing.assert_array_equal(videos["frame_label"][:, 0], np.floor(start[:, 1] * 3))
    changes = (np.diff(videos["frame_label"]) != 0).sum(1)
    assert changes.max() <= 2 * 10 and changes.mean() > 5  # two thirds of ten swaps move the ball
    boxes = GAME.decisive_boxes(videos, 3)
    assert boxes.shape == (64, 1, 4)
    np.testing.assert_allclose(boxes[:, 0, :2] + 1 / 8, videos["ball"][3], atol=1e-6)
    ball = videos["video"][..., 0].sum((2, 3))
    assert (ball[:, :2] > 0).all() and not ball[:, 2:].any()


def test_swaps_are_those_of_a_plain_simulation():
    config = dataclasses.replace(GAME, num_cups=4, num_swaps=7)
    bits = random_stream.words(config.seed, "test", np.arange(50), config.num_draws)
    videos = config.open("test").batch(np.arange(50))
    for row, label in zip(bits, videos["label"], strict=True):
        place = int(row[0]) * 4 >> 32
        for word in row[1:8]:
            i, j = config.pairs[int(word) * 6 >> 32]
            place = {i: j, j: i}.get(place, place)
        assert place == label


def test_no_frame_alone_says_anything():
    """With three cups: the end does not depend on the ball's first place, nor on any one swap."""
    config = dataclasses.replace(GAME, num_frames=42, frame_size=4)
    bits = random_stream.words(config.seed, "test", np.arange(6000), config.num_draws)
    source = config.open("test")
    parts = [source.batch(np.arange(k, k + 500))["label"] for k in range(0, 6000, 500)]
    labels = np.concatenate(parts)
    first = (bits[:, :1] * np.uint64(3) >> np.uint64(32)).astype(int)
    swaps = (bits[:, 1:11] * np.uint64(3) >> np.uint64(32)).astype(int)
    for seen in (first[:, 0], swaps[:, 0], swaps[:, -1]):
        for value in range(3):
            share = np.bincount(labels[seen == value], minlength=3) / (seen == value).sum()
            assert np.abs(share - 1 / 3).max() < 0.045  # four standard deviations


def bag_of_frames_accuracy(config):
    """The best accuracy of anyone who sees all frames, but not their order.

    Such a reader knows where the ball was, and how often each two places were swapped: of all
    orders of these swaps the most frequent end is the best answer.
    """
    ends = Counter({((0,) * len(config.pairs), 0): 1})
    for _ in range(config.num_swaps):
        longer = Counter()
        for (counts, place), ways in ends.items():
            for number, (i, j) in enumerate(config.pairs):
                more = (*counts[:number], counts[number] + 1, *counts[number + 1 :])
                end = {i: j, j: i}.get(place, place)
                longer[more, end] += ways
        ends = longer
    best = Counter()
    for (counts, _), ways in ends.items():
        best[counts] = max(best[counts], ways)
    return sum(best.values()) / len(config.pairs) ** config.num_swaps


def test_a_bag_of_frames_stays_near_chance():
    """Exactly: by the best guess from all that is left without the order of the frames."""
    accuracy = {
        swaps: bag_of_frames_accuracy(dataclasses.replace(GAME, num_frames=500, num_swaps=swaps))
        for swaps in (1, 2, 10, 20)
    }
    assert accuracy[1] == 1  # a single swap has no order
    assert accuracy[2] == pytest.approx(2 / 3)  # two equal swaps, or two that end apart
    assert accuracy[1] > accuracy[2] > accuracy[10] > accuracy[20]
    assert 1 / 3 < accuracy[20] < 0.335
    # The same from many drawn games of few swaps, by counting.
    few = dataclasses.replace(GAME, num_swaps=4)
    rng = np.random.default_rng(0)
    seen = {}
    for _ in range(20_000):
        swaps, place = rng.integers(0, 3, 4), 0
        for number in swaps:
            i, j = few.pairs[number]
            place = {i: j, j: i}.get(place, place)
        key = tuple(np.bincount(swaps, minlength=3))
        seen.setdefault(key, np.zeros(3))[place] += 1
    counted = sum(ends.max() for ends in seen.values()) / 20_000
    assert counted == pytest.approx(bag_of_frames_accuracy(few), abs=0.015)


def test_jax_makes_the_same_videos():
    config = dataclasses.replace(GAME, num_cups=4, num_swaps=3, num_frames=20)
    bits = random_stream.words(0, "train", np.arange(20), config.num_draws)
    expected = cups.make_videos(np, random_stream.below, config, bits)

    def below(bits, bound):
        return generator_jax._below(bits, jnp.int32(bound))

    make = jax.jit(lambda bits: cups.make_videos(jnp, below, config, bits))
    made = make(bits.astype(np.uint32))
    for name in expected:
        assert made[name].dtype == expected[name].dtype
        np.testing.assert_allclose(made[name], expected[name], rtol=1e-6)


def test_examples_are_functions_of_their_index():
    source = GAME.open("test")
    whole, some = source.batch(np.arange(20)), source.batch(np.array([7, 3]))
    np.testing.assert_array_equal(some["video"], whole["video"][[7, 3]])
    other = dataclasses.replace(GAME, seed=1).open("test").batch(np.arange(20))
    assert (other["video"] != whole["video"]).any()
    assert len(GAME.open("train")) == data.ENDLESS
    assert "change places, 10 times" in GAME.describe(source.label_names, {})[0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_cups": 9}, r"num_cups=9 must lie in 2\.\.8"),
        ({"num_swaps": 0}, "num_swaps=0 must be at least 1"),
        ({"num_swaps": 16}, "too few for num_swaps=16: at least 66"),
        ({"swap_frames": 1}, "swap_frames=1 must be at least 2"),
    ],
)
def test_impossible_games_are_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        dataclasses.replace(GAME, **changes)
