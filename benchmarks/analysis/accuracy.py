"""Accuracy on videos that are cut short, out of order, hard, or seen by a part of the graph."""

import contextlib
import itertools
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from benchmarks import map_rule
from benchmarks.analysis.subject import Share, Subject, batches
from rstg_jax.data.sync_mnist import canvas, generator
from rstg_jax.errors import UserError
from rstg_jax.inference import interventions
from rstg_jax.rstg.region_graph import Graph, RegionGraph

QUARTERS = 4


class Quarter(NamedTuple):
    """Some of the videos with a pair, by a measure of how hard they are.

    Attributes:
      low: smallest value of the measure.
      mean: its mean.
      high: its largest value.
      accuracy: on these videos.
    """

    low: float
    mean: float
    high: float
    accuracy: Share


def of_video(subject: Subject, video: np.ndarray) -> Share:
    """Accuracy on the videos in some form."""
    found = subject.log_probabilities(video).argmax(1)
    return Share.of(found == subject.videos["label"])


def by_frames(subject: Subject) -> dict[int, Share]:
    """Accuracy after the first frames, by their number, from 2 to all."""
    video = subject.videos["video"]
    shares = {t: of_video(subject, video[:, :t]) for t in range(2, video.shape[1])}
    return shares | {video.shape[1]: Share.of(subject.right)}


def by_order(subject: Subject) -> dict[str, Share]:
    """Accuracy on all frames in another order."""
    video, rng = subject.videos["video"], np.random.default_rng(0)
    frames = np.tile(np.arange(video.shape[1]), (len(video), 1))
    shuffled = rng.permuted(frames, axis=1)[..., None, None, None]
    orders = {
        "backwards": video[:, ::-1],
        "shuffled": np.take_along_axis(video, shuffled, axis=1),
    }
    return {name: of_video(subject, changed) for name, changed in orders.items()}


def guessing(subject: Subject) -> float:
    """Accuracy, on videos with a pair, of naming any two of the digits that are there."""
    digits = subject.videos["object_class"].shape[1]
    return 2 / (digits * (digits - 1))


def difficulty(coords: np.ndarray) -> dict[str, np.ndarray]:
    """How far apart, hidden and fast the pair of each video is, each `[b]`.

    Args:
      coords: corners of the digits on the canvas, the pair first, int `[b t n 2]`.
    """
    pair, size = coords[:, :, :2].astype(float), canvas.SPRITE
    distance = np.linalg.norm(pair[:, :, 0] - pair[:, :, 1], axis=-1).mean(1)
    shared = np.maximum(size - np.abs(pair[:, :, :, None] - coords[:, :, None]), 0).prod(-1)
    shared[:, :, [0, 1], [0, 1]] = 0  # a digit does not hide itself
    hidden = np.minimum(shared.sum(3) / size**2, 1).mean((1, 2))
    speed = np.linalg.norm(np.diff(pair[:, :, 0], axis=1), axis=-1).mean(1)
    return {
        "distance, canvas pixels": distance,
        "share hidden by other digits": hidden,
        "speed, canvas pixels a frame": speed,
    }


def by_difficulty(subject: Subject) -> dict[str, list[Quarter]]:
    """Accuracy on the quarters of the videos with a pair, by each measure of `difficulty`.

    Raises:
      UserError: there are fewer such videos than quarters.
    """
    chosen = subject.paired
    if len(chosen) < QUARTERS:
        count = len(subject.videos["label"])
        raise UserError(f"--videos={count}: {len(chosen)} of them have a pair; give more videos")
    good = subject.right[chosen]
    tables = {}
    for name, values in difficulty(subject.videos["coords"][chosen]).items():
        parts = np.array_split(np.argsort(values, kind="stable"), QUARTERS)
        tables[name] = [
            Quarter(low=v.min(), mean=v.mean(), high=v.max(), accuracy=Share.of(good[part]))
            for part in parts
            for v in (values[part],)
        ]
    return tables


def by_answer(subject: Subject) -> dict[str, Share]:
    """Share of videos by what the most likely label says about the digits that are there."""
    label, classes, found = subject.videos["label"], subject.videos["object_class"], subject.found
    answers: dict[int, set[int]] = {subject.none: set()}
    count = subject.weights.experiment.data.num_object_classes  # few videos may not have all
    for pair in itertools.combinations(range(count), 2):
        answers[int(generator.pair_label(*pair))] = set(pair)
    there = np.array([answers[f] <= set(row) for f, row in zip(found, classes, strict=True)])
    good, says_none = found == label, found == subject.none
    rows = {
        "right": good,
        "a pair with a digit that is not in the video": ~there,
        "another pair of its digits": there & ~good & ~says_none & (label != subject.none),
        "no pair, but there is one": says_none & ~good,
        "a pair of its digits, but there is none": there & ~good & (label == subject.none),
    }
    return {name: Share.of(chosen) for name, chosen in rows.items()}


def by_rule(subject: Subject) -> dict[str, Share]:
    """Accuracy of the network and of a rule by hand on the maps that its graph reads."""
    maps = jax.jit(lambda variables, v: subject.module.apply(variables, v)[1]["object_map"])
    found = [
        map_rule.choose(*map_rule.places(np.asarray(maps(subject.weights.variables, part))))
        for part in batches(subject.videos["video"])
    ]
    right = np.concatenate(found) == subject.videos["label"]
    return {"network": Share.of(subject.right), "rule": Share.of(right)}


def changes(graph: Graph) -> dict[str, tuple[interventions.Interceptor, ...]]:
    """Parts of a graph that can be switched off, by what that means."""
    if not isinstance(graph, RegionGraph):
        every = tuple(interventions.cut(None, node) for node in range(graph.num_nodes))
        return {"no object sends messages": every}
    last = graph.num_nodes - 1  # the region of the whole frame, or the coarsest one
    centre = graph.scales[0] ** 2 // 2
    return {
        "the coarsest region sees nothing": (interventions.silence(last),),
        "the central fine region sees nothing": (interventions.silence(centre),),
        "the coarsest region has no memory": (interventions.forget(last),),
        "the central fine region has no memory": (interventions.forget(centre),),
        "no message from the central fine to the coarsest region": (
            interventions.cut(last, centre),
        ),
    }


def without_parts(subject: Subject) -> dict[str, Share]:
    """Accuracy if parts of the graph never work."""
    shares = {"nothing is switched off": Share.of(subject.right)}
    for name, change in changes(subject.graph).items():
        # A new function for each: `jit` would take what it compiled for another.
        def predict(variables: Any, video: jax.Array, change: Any = change) -> jax.Array:
            with contextlib.ExitStack() as switched_off:
                for one in change:
                    switched_off.enter_context(nn.intercept_methods(one))
                return subject.module.apply(variables, video)[0].argmax(1)

        run, parts = jax.jit(predict), batches(subject.videos["video"])
        found = np.concatenate([np.asarray(run(subject.weights.variables, p)) for p in parts])
        shares[name] = Share.of(found == subject.videos["label"])
    return shares
