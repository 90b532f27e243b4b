"""Collisions: discs against a plain simulation, an oracle that reads the maps, and what leaks."""

import dataclasses
import itertools

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from rstg_jax import data
from rstg_jax.data import collisions, random_stream
from rstg_jax.errors import UserError

DISCS = data.CollisionsConfig(num_frames=64, num_test=60)


def simulated(config, count):
    bits = random_stream.words(config.seed, "test", np.arange(count), config.num_draws)
    return collisions.simulate(config, *collisions.start(config, bits))


def plain(config, places, velocities):
    """One video in Python's integers: places in every frame, and (frame, pair) of all touches."""
    wall, cell = (config.frame_size - 1) * collisions.CELL, collisions.CELL
    places, velocities = places.tolist(), velocities.tolist()
    shown, touches = [], []
    for frame in range(config.num_frames):
        shown.append([list(place) for place in places])
        for _ in range(collisions.STEPS):
            for place, velocity in zip(places, velocities, strict=True):
                for axis in (0, 1):
                    place[axis] += velocity[axis]
                    if place[axis] < 0:
                        place[axis], velocity[axis] = -place[axis], -velocity[axis]
                    elif place[axis] > wall:
                        place[axis], velocity[axis] = 2 * wall - place[axis], -velocity[axis]
            pushes = []
            for pair, (i, j) in enumerate(config.pairs):
                y, x = (places[j][axis] - places[i][axis] for axis in (0, 1))
                v, u = (velocities[j][axis] - velocities[i][axis] for axis in (0, 1))
                if y * y + x * x <= (2 * config.radius * cell) ** 2 and y * v + x * u < 0:
                    touches.append((frame, pair))
                    share = (y * v + x * u) / (y * y + x * x)
                    pushes.append((i, j, round(share * y), round(share * x)))
            for i, j, *push in pushes:
                for axis in (0, 1):
                    velocities[i][axis] += push[axis]
                    velocities[j][axis] -= push[axis]
    return shown, touches


def test_discs_move_as_in_a_plain_simulation():
    config = dataclasses.replace(DISCS, num_discs=4, radius=0.75)
    bits = random_stream.words(0, "test", np.arange(6), config.num_draws)
    places, velocities = collisions.start(config, bits)
    scene = collisions.simulate(config, places, velocities)
    for row in range(6):
        shown, touches = plain(config, places[row], velocities[row])
        seen = [touch for touch in touches if touch[0] < 62]
        # A last bit of the push may be rounded otherwise.
        np.testing.assert_allclose(scene.places[row], shown, atol=0.1 * collisions.CELL)
        assert scene.first_pair[row] == seen[0][1]
        first = [min((f for f, p in seen if p == pair), default=-1) for pair in range(6)]
        assert scene.first_touch[row].tolist() == first
        # Negative control: discs a little larger.
        larger = dataclasses.replace(config, radius=0.8)
        other, _ = plain(larger, places[row], velocities[row])
        assert np.abs(scene.places[row] - other).max() > 0.5 * collisions.CELL


def test_momentum_and_energy():
    """Away from walls a touch keeps momentum exactly, and energy to rounding."""
    config = dataclasses.replace(DISCS, num_discs=2, num_frames=6)
    cell = collisions.CELL
    places = np.array([[[3 * cell, 2 * cell], [3 * cell + cell // 3, 5 * cell]]])
    velocities = np.array([[[0, cell // 8], [5, -cell // 8]]])
    scene = collisions.simulate(config, places, velocities)
    moved = np.diff(scene.places[0], axis=0)
    np.testing.assert_array_equal(moved.sum(axis=1), np.tile(moved[0].sum(axis=0), (5, 1)))
    energy = (moved[[0, -1]].astype(float) ** 2).sum((1, 2))
    assert energy[1] == pytest.approx(energy[0], rel=1e-2)
    assert scene.first_touch.tolist() == [[1]]
    assert moved[0, 0, 1] > cell / 3 and moved[-1, 0, 1] < -cell / 3  # it bounced back


def oracle(video):
    """The pair that touches first, from the maps alone: the first two discs that leave their line.

    Until then every disc moves straight on, but for the mirror at the walls.
    """
    mass = video.astype(float).transpose(0, 3, 1, 2)  # [t n h w]
    rows, columns = np.mgrid[: video.shape[1], : video.shape[2]]
    total = mass.sum((2, 3))
    places = (
        np.stack([(mass * rows).sum((2, 3)), (mass * columns).sum((2, 3))], -1) / total[..., None]
    )
    wall, velocity = video.shape[1] - 1, places[1] - places[0]
    for now, following in itertools.pairwise(places[1:]):
        ahead = now + velocity
        velocity = np.where((ahead < 0) | (ahead > wall), -velocity, velocity)
        off = np.abs(wall - np.abs(wall - np.abs(ahead)) - following).max(axis=1)
        if (off > 0.04).sum() >= 2:
            return sorted(np.argsort(-off)[:2].tolist())
    return None


def test_an_oracle_that_reads_the_maps():
    source = DISCS.open("test")
    batch = source.batch(np.arange(60))
    right = 0
    for video, label in zip(batch["video"], batch["label"], strict=True):
        pair = oracle(video)
        named = "none" if pair is None else f"{pair[0] + 1} and {pair[1] + 1}"
        right += named == source.label_names[label]
    assert right >= 59
    # Without the first frames in their order it finds nothing.
    turned = [oracle(video[::-1]) for video in batch["video"]]
    names = [f"{p[0] + 1} and {p[1] + 1}" if p else "none" for p in turned]
    wrong = np.mean(
        [n != source.label_names[k] for n, k in zip(names, batch["label"], strict=True)]
    )
    assert wrong > 0.5


def test_every_pair_is_equally_likely():
    pairs = simulated(dataclasses.replace(DISCS, num_frames=48), 3000).first_pair
    shares = np.bincount(pairs[pairs >= 0], minlength=3) / 3000
    assert np.abs(shares - 1 / 3).max() < 0.035  # four standard deviations
    assert (pairs == collisions.NONE).mean() < 0.01


def test_the_last_frame_says_nothing_and_a_bag_of_frames_little():
    """A classifier of places and distances; the first touch lies far back, others are between."""
    scene = simulated(dataclasses.replace(DISCS, num_frames=128), 3000)
    i, j = np.array(DISCS.pairs).T
    places = scene.places / collisions.CELL
    distance = np.linalg.norm(places[:, :, j] - places[:, :, i], axis=-1)  # [b t pairs]
    near = (distance[..., None] < np.array([2.2, 2.6, 3.5])).reshape(3000, 128, -1)

    def accuracy(features):
        features = (features - features.mean(0)) / features.std(0)
        model = LogisticRegression(max_iter=2000).fit(features[:2000], scene.first_pair[:2000])
        return model.score(features[2000:], scene.first_pair[2000:])

    last = np.concatenate([places[:, -1].reshape(3000, -1), distance[:, -1], near[:, -1]], axis=1)
    assert accuracy(last) < 1 / 3 + 0.06
    bag = np.concatenate([distance.mean(1), 20 * near.mean(1)], axis=1)
    assert accuracy(bag) < 0.5
    # The same features in the frame of the touch say it: the classifier can use them.
    first = np.where(scene.first_touch >= 0, scene.first_touch, 999).min(axis=1)
    touch = distance[np.arange(3000), np.minimum(first, 126) + 1]
    assert accuracy(touch) > 0.9


def test_do_these_two_ever_touch():
    config = dataclasses.replace(DISCS, question="touch", num_frames=16)
    source = config.open("test")
    batch = source.batch(np.arange(60))
    touched = simulated(config, 60).first_touch[:, 0] >= 0
    assert source.label_names == ("no", "yes")
    np.testing.assert_array_equal(batch["label"], touched)
    assert 0.2 < touched.mean() < 0.8
    assert (batch["pair"] == 0).all()


def test_examples_are_functions_of_their_index():
    source = DISCS.open("test")
    whole, some = source.batch(np.arange(20)), source.batch(np.array([7, 3]))
    for name in whole:
        np.testing.assert_array_equal(some[name], whole[name][[7, 3]])
    assert whole["video"].shape == (20, *DISCS.clip_shape) and whole["video"].dtype == np.uint8
    # No disc is cut off, so that every one weighs the same.
    np.testing.assert_allclose(whole["video"].sum((2, 3), dtype=int), 255, atol=2)
    boxes = DISCS.decisive_boxes(whole, 4)
    pair = DISCS.pairs[whole["label"][4]]
    center = (boxes[..., :2] + boxes[..., 2:]) / 2
    np.testing.assert_allclose(center, whole["place"][4][:, pair], atol=1e-6)
    assert len(DISCS.open("train")) == data.ENDLESS and DISCS.num_classes == 4
    assert "names the two that touched first" in DISCS.describe((), {})[0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"question": "last"}, "'question': 'last' is not one of first, touch"),
        ({"num_discs": 1}, "num_discs=1 must be at least 2"),
        (
            {"radius": 2.0},
            "radius=2 must be at least 0.25 and leave room for 3 discs in a row of 8",
        ),
        ({"num_discs": 16}, "leave room for 16 discs"),
        ({"speed": 1.5}, "speed=1.5 must be above 0 and at most radius"),
    ],
)
def test_impossible_boxes_are_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        dataclasses.replace(DISCS, **changes)
