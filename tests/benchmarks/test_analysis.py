"""The analysis of SyncMNIST models: its measures against plain loops, and the whole page."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import linen as nn

from benchmarks import analysis
from configs import sync_mnist
from rstg_jax import config
from rstg_jax.data.sync_mnist import generator
from rstg_jax.inference import interventions, known_weights
from rstg_jax.models import classifier
from rstg_jax.training.weights import Weights


@pytest.fixture(scope="module")
def subject():
    """The tiny model with random weights and eight videos."""
    experiment = config.override(sync_mnist.tiny(), {"model.rstg.stages": "time,space,time"})
    source = dataclasses.replace(experiment.data, num_test=8).open("test")
    module = classifier.build(experiment.model, len(source.label_names))
    batch = source.batch(np.arange(8))
    variables = jax.jit(module.init)(jax.random.key(5), batch["video"])
    weights = Weights(experiment, variables, source.label_names, {"name": "a test"})
    videos = {key: batch[key] for key in analysis.ARRAYS}
    return analysis.Subject(weights, module, videos, source.label_names.index("none"))


def test_difficulty_as_a_loop_over_pixels():
    rng = np.random.default_rng(0)
    coords = rng.integers(0, 72, (3, 4, 3, 2))
    got = analysis.difficulty(coords)
    for b in range(3):
        distance, hidden = [], []
        for t in range(4):
            distance.append(np.hypot(*(coords[b, t, 0] - coords[b, t, 1])))
            for digit in (0, 1):
                canvas = np.zeros((generator.CANVAS, generator.CANVAS), int)
                for other in range(3):
                    if other != digit:
                        y, x = coords[b, t, other]
                        canvas[y : y + 28, x : x + 28] += 1
                y, x = coords[b, t, digit]
                hidden.append(min(canvas[y : y + 28, x : x + 28].sum() / 28**2, 1))
        steps = [np.hypot(*(coords[b, t + 1, 0] - coords[b, t, 0])) for t in range(3)]
        values = (np.mean(distance), np.mean(hidden), np.mean(steps))
        np.testing.assert_allclose([measure[b] for measure in got.values()], values, rtol=1e-9)


def test_answers_are_sorted_by_their_digits(subject, monkeypatch):
    names = subject.weights.label_names  # 0-1, 0-2, 1-2, none
    label = np.array([names.index(x) for x in ("0-1", "0-1", "0-1", "none", "none", "1-2")])
    found = np.array([names.index(x) for x in ("0-1", "1-2", "none", "0-1", "0-2", "none")])
    classes = np.array([[0, 1], [0, 1], [0, 1], [0, 1], [0, 1], [1, 2]])
    videos = {"label": label, "object_class": classes, "video": np.zeros(6)}
    changed = dataclasses.replace(subject, videos=videos)
    monkeypatch.setattr(analysis.Subject, "log_probabilities", lambda *_: np.eye(4)[found])
    shares = [float(text.split()[0]) for _, text in analysis.by_answer(changed)]
    assert shares == [16.7, 33.3, 0.0, 33.3, 16.7]
    videos["object_class"] = np.tile([0, 1, 2], (6, 1))
    shares = [float(text.split()[0]) for _, text in analysis.by_answer(changed)]
    assert shares == [16.7, 0.0, 16.7, 33.3, 33.3]


def test_regions_that_hold_the_pair(subject):
    holds = analysis.holders(subject, 1)
    assert holds.shape == (8, 9)
    for video, corners in enumerate(subject.videos["coords"][:, 1, :2]):
        cells = {tuple(((c + 14) / 100 * 3).astype(int)) for c in corners}
        assert {divmod(r, 3) for r in np.flatnonzero(holds[video])} == cells


def test_score_counts_the_two_largest():
    values = np.array([[5.0, 1, 4, 2], [0, 3, 1, 2]])
    holds = np.array([[True, True, False, False], [False, True, False, True]])
    assert analysis.score(values, holds) == 0.75
    assert analysis.score(-values, holds) == 0.25


def test_effects_as_a_loop_over_regions(subject):
    got = analysis.effects(subject, subject.weights.variables, 2)
    assert got.shape == (8, 9)
    video, label = subject.videos["video"], subject.videos["label"]
    plain = subject.log_probabilities(video)[np.arange(8), label]
    for region in (0, 4, 8):
        with nn.intercept_methods(interventions.silence(region, 2)):
            run = jax.jit(lambda video: subject.module.apply(subject.weights.variables, video)[0])
            logits = run(video)
        silent = np.asarray(jax.nn.log_softmax(logits))[np.arange(8), label]
        np.testing.assert_allclose(got[:, region], plain - silent, atol=1e-5)
    assert np.abs(got).max() > 1e-4


@pytest.mark.slow
def test_page(subject, tmp_path, monkeypatch):
    monkeypatch.setitem(known_weights.KNOWN, "tests/tiny", lambda: subject.weights)
    assert analysis.main(["--weights=tests/tiny", "--videos=8", f"--out={tmp_path}"]) == 0
    text = (tmp_path / "analysis.md").read_text()
    head = 2  # lines of each table
    assert text.count("\n| ") == 2 * (5 + head) + 3 * (4 + head) + (6 + head) + (5 + head)
    assert "| chance: any region |" in text
