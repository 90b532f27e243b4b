"""The rule on maps of known places."""

import numpy as np

from benchmarks import map_rule
from rstg_jax.data.sync_mnist import canvas, generator
from rstg_jax.training import map_loss

SPEC = generator.VideoSpec(num_digits=5, none_probability=0.0)
VIDEOS = 40


def trajectories():
    digits = generator.Digits(np.zeros((10, 28, 28), np.uint8), np.arange(10))
    return generator.sample(SPEC, digits, np.arange(VIDEOS), seed=0, split="test")


def perfect_maps(paths):
    """Maps that say where every digit is, with certainty."""
    centres = (paths.coords + canvas.SPRITE / 2) / canvas.CANVAS
    target = map_loss.targets((8, 8), paths.digits, centres.astype(np.float32), 10)
    maps = np.array(target)
    maps[..., 0] = 40 * maps[..., 0] - 20  # logits
    return maps


def test_places_are_read_back():
    paths = trajectories()
    place, presence = map_rule.places(perfect_maps(paths))
    videos = np.arange(VIDEOS)
    for number in range(SPEC.num_digits):
        digit = paths.digits[:, number]
        read = place[videos, :, digit]
        np.testing.assert_allclose(read, paths.coords[:, :, number] + 14, atol=1e-3)
        assert (presence[videos, :, digit] > 0.99).all()
    assert (presence > 0.5).sum() == VIDEOS * SPEC.num_frames * SPEC.num_digits


def test_the_pair_is_found_and_not_by_chance():
    paths = trajectories()
    place, presence = map_rule.places(perfect_maps(paths))
    assert (map_rule.choose(place, presence) == paths.labels).mean() > 0.95
    still = np.repeat(place[:, :1], SPEC.num_frames, axis=1)  # one of ten pairs of its digits
    assert (map_rule.choose(still, presence) == paths.labels).mean() < 0.35
    hidden = np.where(np.arange(10) % 2, presence, 0)  # half of the digits
    assert (map_rule.choose(place, hidden) == paths.labels).mean() < 0.5
