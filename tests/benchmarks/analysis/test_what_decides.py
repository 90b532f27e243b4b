"""How much regions matter, against loops over regions, and the score of the largest ones."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from benchmarks.analysis import what_decides
from rstg_jax.inference import interventions


def test_regions_that_hold_the_pair(subject):
    holds = what_decides.holders(subject, 1)
    assert holds.shape == (8, 9)
    for video, corners in enumerate(subject.videos["coords"][:, 1, :2]):
        cells = {tuple(((c + 14) / 100 * 3).astype(int)) for c in corners}
        assert {divmod(r, 3) for r in np.flatnonzero(holds[video])} == cells


def test_objects_of_the_pair(on_objects):
    holds, boxes = what_decides.holders(on_objects, 1), what_decides.node_boxes(on_objects, 1)
    for video, classes in enumerate(on_objects.videos["object_class"]):
        assert set(np.flatnonzero(holds[video])) == set(classes[:2])
        assert set(np.flatnonzero(~np.isnan(boxes[video, :, 0]))) == set(classes)
        for one, corner in zip(classes, on_objects.videos["coords"][video, 1], strict=True):
            np.testing.assert_allclose(boxes[video, one], [*corner / 100, *(corner + 28) / 100])


def test_score_counts_the_two_largest():
    values = np.array([[5.0, 1, 4, 2], [0, 3, 1, 2]])
    wanted = np.array([[True, True, False, False], [False, True, False, True]])
    assert what_decides.score(values, wanted).mean == 0.75
    assert what_decides.score(-values, wanted).mean == 0.25
    assert what_decides.score(values, what_decides.largest(values)) == (1, 0)


def log_odds(logits, label):
    """Of the label, in double precision."""
    others = np.exp(logits.astype(float))
    true = others[np.arange(len(label)), label]
    return np.log(true / (others.sum(1) - true))


@pytest.mark.parametrize(
    ("change", "intervention"),
    [
        ("sees nothing", lambda region: interventions.silence(region, 2)),
        ("loses its memory", lambda region: interventions.forget(region, 2)),
        ("sends no messages", lambda region: interventions.cut(None, region, 2)),
    ],
)
def test_effects_as_a_loop_over_regions(subject, change, intervention):
    variables = subject.weights.variables
    got = what_decides.effects(subject, variables, change, 2)
    assert got.shape == (8, 9)
    video, label = subject.videos["video"], subject.videos["label"]
    plain = np.asarray(jax.jit(subject.module.apply)(variables, video)[0])
    for region in (0, 4):
        with nn.intercept_methods(intervention(region)):
            run = jax.jit(lambda video: subject.module.apply(variables, video)[0])
            changed = np.asarray(run(video))
        wanted = log_odds(plain, label) - log_odds(changed, label)
        np.testing.assert_allclose(got[:, region], wanted, atol=2e-5)
    assert np.abs(got).max() > 1e-4


def test_effects_of_objects(on_objects):
    """An object that sees nothing is one of which the block reads zeros."""
    variables = on_objects.weights.variables
    got = what_decides.effects(on_objects, variables, "sees nothing", 2)
    assert got.shape == (8, 3)
    video, label = on_objects.videos["video"], on_objects.videos["label"]
    plain, out = jax.jit(on_objects.module.apply)(variables, video)
    with nn.intercept_methods(interventions.silence(1, 2)):
        changed, _ = jax.jit(lambda x: on_objects.module.apply(variables, x))(video)
    wanted = log_odds(np.asarray(plain), label) - log_odds(np.asarray(changed), label)
    np.testing.assert_allclose(got[:, 1], wanted, atol=2e-5)
    assert np.abs(wanted).max() > 1e-4
    paid = what_decides.attention(on_objects, variables, 2)
    received = np.asarray(out["attention"])[:, :, 2].sum((0, 2))
    np.testing.assert_allclose(paid, received / received.sum(1, keepdims=True), rtol=1e-5)


def test_attention_is_shared_by_the_regions(subject):
    variables = subject.weights.variables
    got = what_decides.attention(subject, variables, 2)
    _, out = jax.jit(subject.module.apply)(variables, subject.videos["video"])
    weights = np.asarray(out["attention"])[:, :, 2]  # [k b i j]
    for video in (0, 7):
        received = [weights[:, video, :, sender].sum() for sender in range(14)]
        np.testing.assert_allclose(got[video], np.array(received[:9]) / sum(received), rtol=1e-5)
    assert np.ptp(got) > 1e-3
