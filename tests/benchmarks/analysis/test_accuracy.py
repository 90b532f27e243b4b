"""The measures of accuracy against plain loops and answers that are known by construction."""

import contextlib
import dataclasses
import types

import jax
import numpy as np
import pytest
from flax import linen as nn

from benchmarks.analysis import accuracy
from benchmarks.analysis.subject import Share, Subject
from rstg_jax.data.sync_mnist.canvas import CANVAS
from rstg_jax.errors import UserError
from rstg_jax.training import map_loss


def answering(subject, monkeypatch, found, **videos):
    """The subject with other videos, of which the network answers `found`."""
    changed = dataclasses.replace(subject, videos={"video": np.zeros(len(found)), **videos})
    classes = len(subject.weights.label_names)
    monkeypatch.setattr(Subject, "log_probabilities", lambda *_: np.eye(classes)[found])
    return changed


def means(shares):
    return [round(100 * share.mean, 1) for share in shares.values()]


def test_share_of_the_right_answers():
    share = Share.of(np.array([True, True, True, False]))
    assert share.mean == 0.75
    assert share.error == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
    assert str(share) == "75.0 ± 21.7"


def test_difficulty_as_a_loop_over_pixels():
    rng = np.random.default_rng(0)
    coords = rng.integers(0, 72, (3, 4, 3, 2))
    got = accuracy.difficulty(coords)
    for b in range(3):
        distance, hidden = [], []
        for t in range(4):
            distance.append(np.hypot(*(coords[b, t, 0] - coords[b, t, 1])))
            for digit in (0, 1):
                canvas = np.zeros((CANVAS, CANVAS), int)
                for other in range(3):
                    if other != digit:
                        y, x = coords[b, t, other]
                        canvas[y : y + 28, x : x + 28] += 1
                y, x = coords[b, t, digit]
                hidden.append(min(canvas[y : y + 28, x : x + 28].sum() / 28**2, 1))
        steps = [np.hypot(*(coords[b, t + 1, 0] - coords[b, t, 0])) for t in range(3)]
        values = (np.mean(distance), np.mean(hidden), np.mean(steps))
        np.testing.assert_allclose([measure[b] for measure in got.values()], values, rtol=1e-9)


def test_quarters_of_the_videos_with_a_pair(subject, monkeypatch):
    """Digits of a pair are 0, 1, 2... apart; the network is right where they are far apart."""
    none, number = subject.none, 9
    label = np.where(np.arange(number) == 4, none, 0)  # video 4 has no pair
    coords = np.zeros((number, 2, 2, 2), int)
    coords[:, :, 1, 0] = np.arange(number)[:, None]
    found = np.where(np.arange(number) > 5, label, 1)
    changed = answering(subject, monkeypatch, found, label=label, coords=coords)
    quarters = accuracy.by_difficulty(changed)["distance, canvas pixels"]
    assert [(q.low, q.mean, q.high) for q in quarters] == [
        (0, 0.5, 1),
        (2, 2.5, 3),
        (5, 5.5, 6),
        (7, 7.5, 8),
    ]
    assert [q.accuracy.mean for q in quarters] == [0, 0, 0.5, 1]
    few = answering(subject, monkeypatch, found[:5], label=label[:5] * 0 + none, coords=coords[:5])
    with pytest.raises(UserError, match="--videos=5: 0 of them have a pair"):
        accuracy.by_difficulty(few)


def test_frames_and_orders(subject, monkeypatch):
    """The answer is ten times the number of frames, plus the number of the first one."""
    video = np.tile(np.arange(5)[:, None, None, None], (4, 1, 1, 1, 1))
    videos = {"video": video, "label": np.array([20, 30, 50, 54])}
    seen = []

    def log_probabilities(_, video):
        seen.append(video[:, :, 0, 0, 0])
        return np.eye(60)[10 * video.shape[1] + video[:, 0, 0, 0, 0]]

    monkeypatch.setattr(Subject, "log_probabilities", log_probabilities)
    changed = dataclasses.replace(subject, videos=videos)
    shares = {t: share.mean for t, share in accuracy.by_frames(changed).items()}
    assert shares == {2: 0.25, 3: 0.25, 4: 0, 5: 0.25}
    assert accuracy.by_order(changed)["backwards"].mean == 0.25
    *_, shuffled = seen
    np.testing.assert_array_equal(np.sort(shuffled, axis=1), video[..., 0, 0, 0])
    assert len(np.unique(shuffled, axis=0)) > 1


def test_answers_are_sorted_by_their_digits(subject, monkeypatch):
    names = subject.weights.label_names  # 0-1, 0-2, 1-2, none
    label = np.array([names.index(x) for x in ("0-1", "0-1", "0-1", "none", "none", "1-2")])
    found = np.array([names.index(x) for x in ("0-1", "1-2", "none", "0-1", "0-2", "none")])
    classes = np.array([[0, 1], [0, 1], [0, 1], [0, 1], [0, 1], [1, 2]])
    changed = answering(subject, monkeypatch, found, label=label, object_class=classes)
    assert accuracy.guessing(changed) == 1
    assert means(accuracy.by_answer(changed)) == [16.7, 33.3, 0.0, 33.3, 16.7]
    classes = np.tile([0, 1, 2], (6, 1))
    changed = answering(subject, monkeypatch, found, label=label, object_class=classes)
    assert accuracy.guessing(changed) == pytest.approx(1 / 3)
    assert means(accuracy.by_answer(changed)) == [16.7, 0.0, 16.7, 33.3, 33.3]
    # A label of a digit that no video has.
    classes, label = np.tile([0, 1], (6, 1)), np.full(6, names.index("0-1"))
    changed = answering(subject, monkeypatch, found, label=label, object_class=classes)
    assert means(accuracy.by_answer(changed)) == [33.3, 33.3, 0.0, 33.3, 0.0]


def test_rule_reads_the_maps_of_the_network(subject, monkeypatch):
    """Digits 0 and 2 make the same steps and digit 1 others, on maps that say so with certainty."""
    rng, number = np.random.default_rng(0), 6
    walks = rng.uniform(-0.04, 0.04, (number, 10, 2, 2)).cumsum(1)
    centres = 0.5 + walks[:, :, [0, 1, 0]] + np.array([[-0.1, 0], [0, 0], [0.1, 0]])
    maps = np.array(
        map_loss.targets((8, 8), np.tile(np.arange(3), (number, 1)), centres.astype(np.float32), 3)
    )
    maps[..., 0] = 40 * maps[..., 0] - 20  # logits
    network = types.SimpleNamespace(apply=lambda _, video: (None, {"object_map": video}))
    names = subject.weights.label_names
    found = np.array([names.index("0-2")] * 2 + [names.index("none")] * 4)

    def shares(label, maps=maps):
        videos = {"label": np.full(number, names.index(label)), "video": maps}
        changed = answering(subject, monkeypatch, found, **videos)
        return accuracy.by_rule(dataclasses.replace(changed, module=network))

    assert means(shares("0-2")) == [33.3, 100.0]
    assert means(shares("0-1")) == [0.0, 0.0]
    swapped = maps[..., [0, 2, 1], :]  # now 0 and 1 move together
    assert means(shares("0-1", swapped)) == [0.0, 100.0]
    assert means(shares("0-2", swapped)) == [33.3, 0.0]


def test_objects_without_messages(on_objects):
    """Then what the space stages read does not depend on who is a neighbour."""
    (name, every), *others = accuracy.changes(on_objects.graph).items()
    assert name == "no object sends messages" and not others
    with contextlib.ExitStack() as stack:
        for one in every:
            stack.enter_context(nn.intercept_methods(one))
        run = jax.jit(lambda v: on_objects.module.apply(on_objects.weights.variables, v)[1])
        out = run(on_objects.videos["video"])
    assert not np.any(out["attention"])
    shares = accuracy.without_parts(on_objects)
    assert list(shares) == ["nothing is switched off", name]
