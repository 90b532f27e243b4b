"""What a SyncMNIST model needs and what it looks at; writes docs/analysis.md and its picture.

    python -m benchmarks.analysis [--weights=sync_mnist/lite3] [--videos=2000] [--out=docs]

Flags --config.data... choose other test videos, as of `rstg_jax.evaluate`.

Accuracy is measured on test videos as they are, cut short, out of order, and sorted by how far
apart, how hidden and how fast the pair is. Then parts of the graph are switched off, see
`rstg_jax.inference.interventions`: which of the finest regions matters most in the middle frame,
and does it hold a digit of the pair? The same question is asked of the attention and, for
comparison, of the network with random weights.
"""

import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from benchmarks import map_rule
from rstg_jax import cli, config, files
from rstg_jax.data import SyncMNISTConfig
from rstg_jax.data.sync_mnist import generator
from rstg_jax.errors import UserError
from rstg_jax.inference import interventions, known_weights
from rstg_jax.models import classifier
from rstg_jax.rstg.region_graph import RegionGraph
from rstg_jax.training import region_loss
from rstg_jax.training.weights import Weights

BATCH = 50
TOP = 2  # regions that are looked at, as there are two digits in a pair
QUARTERS = 4
ARRAYS = ("video", "label", "coords", "object_class")
Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Subject:
    """The model under study and its videos.

    Attributes:
      weights: of the model.
      module: the network.
      videos: arrays of the test videos: video, label, coords, and the classes of the digits as
        `object_class`, numbers in the spec's classes.
      none: the label of videos without a pair.
    """

    weights: Weights
    module: nn.Module
    videos: Arrays
    none: int

    @property
    def graph(self) -> RegionGraph:
        """The regions of its block."""
        return self.weights.experiment.model.rstg.graph()

    @property
    def paired(self) -> np.ndarray:
        """Numbers of the videos that have a pair."""
        return np.flatnonzero(self.videos["label"] != self.none)

    @functools.cached_property
    def found(self) -> np.ndarray:
        """The most likely label of every video as it is, `[b]`."""
        return self.log_probabilities(self.videos["video"]).argmax(1)

    def log_probabilities(self, video: np.ndarray) -> np.ndarray:
        """Of every label, `[b classes]`."""
        apply, variables = _log_probabilities(self.module), self.weights.variables
        return np.concatenate([np.asarray(apply(variables, part)) for part in batches(video)])


def subject(name: str, count: int, changes: Mapping[str, str] | None = None) -> Subject:
    """Loads a model by the name of its weights, and its first test videos.

    Args:
      name: of the weights.
      count: number of videos.
      changes: config keys and values.
    """
    weights = known_weights.find(name)
    data = config.override(weights.experiment, changes or {}).data
    if not isinstance(data, SyncMNISTConfig) or "final" not in weights.experiment.model.rstg_at:
        raise UserError(f"--weights={name}: this is about SyncMNIST models with a block at the end")
    source = dataclasses.replace(data, test_source="online", num_test=count).open("test")
    parts = [source.batch(np.arange(i, min(i + BATCH, count))) for i in range(0, count, BATCH)]
    videos = {k: np.concatenate([p[k] for p in parts]) for k in ARRAYS}
    module = classifier.build(weights.experiment.model, len(weights.label_names))
    return Subject(weights, module, videos, weights.label_names.index("none"))


def batches(array: np.ndarray) -> Iterator[np.ndarray]:
    """Cuts an array into batches."""
    yield from (array[i : i + BATCH] for i in range(0, len(array), BATCH))


@functools.cache
def _log_probabilities(module: nn.Module) -> Callable[..., jax.Array]:
    return jax.jit(lambda variables, video: jax.nn.log_softmax(module.apply(variables, video)[0]))


# --- accuracy -------------------------------------------------------------------------------------


def accuracy(right: np.ndarray) -> str:
    """Accuracy in percent with its standard error."""
    share = right.mean()
    error = np.sqrt(share * (1 - share) / len(right))
    return f"{100 * share:.1f} ± {100 * error:.1f}"


def right(subject: Subject, video: np.ndarray) -> np.ndarray:
    """Whether the most likely label is right, of the videos in some form; bool `[b]`."""
    return subject.log_probabilities(video).argmax(1) == subject.videos["label"]


def by_frames(subject: Subject) -> list[tuple[str, str]]:
    """Accuracy after the first frames, and out of order."""
    video = subject.videos["video"]
    frames, rng = video.shape[1], np.random.default_rng(0)
    rows = [(f"first {t} frames", accuracy(right(subject, video[:, :t]))) for t in range(2, frames)]
    shuffled = rng.permuted(np.tile(np.arange(frames), (len(video), 1)), axis=1)
    orders = {
        "all frames": video,
        "all frames, backwards": video[:, ::-1],
        "all frames, shuffled": np.take_along_axis(video, shuffled[..., None, None, None], axis=1),
    }
    return rows + [(name, accuracy(right(subject, changed))) for name, changed in orders.items()]


def difficulty(coords: np.ndarray) -> dict[str, np.ndarray]:
    """How far apart, hidden and fast the pair of each video is, each `[b]`.

    Args:
      coords: corners of the digits on the canvas, the pair first, int `[b t n 2]`.
    """
    pair, size = coords[:, :, :2].astype(float), generator.SPRITE
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


def by_difficulty(subject: Subject) -> dict[str, list[tuple[str, str]]]:
    """Accuracy on the quarters of the videos with a pair, by each measure of `difficulty`."""
    chosen = subject.paired
    good = (subject.found == subject.videos["label"])[chosen]
    tables = {}
    for name, values in difficulty(subject.videos["coords"][chosen]).items():
        order = np.array_split(np.argsort(values, kind="stable"), QUARTERS)
        tables[name] = [
            (f"{values[part].min():.2f} to {values[part].max():.2f}", accuracy(good[part]))
            for part in order
        ]
    return tables


def by_answer(subject: Subject) -> list[tuple[str, str]]:
    """Share of videos by what the most likely label says about the digits that are there."""
    label, classes, found = subject.videos["label"], subject.videos["object_class"], subject.found
    answers: dict[int, set[int]] = {subject.none: set()}
    for pair in itertools.combinations(range(classes.max() + 1), 2):
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
    return [(name, accuracy(chosen)) for name, chosen in rows.items()]


def by_rule(subject: Subject) -> list[tuple[str, str]]:
    """Accuracy of the network and of a rule by hand on the maps that its graph reads."""
    variables, label = subject.weights.variables, subject.videos["label"]
    maps = jax.jit(lambda video: subject.module.apply(variables, video)[1]["object_map"])
    parts = [np.asarray(maps(part)) for part in batches(subject.videos["video"])]
    found = [map_rule.choose(*map_rule.places(part)) for part in parts]
    return [
        ("network", accuracy(subject.found == label)),
        ("rule", accuracy(np.concatenate(found) == label)),
    ]


# --- what decides ---------------------------------------------------------------------------------


def holders(subject: Subject, frame: int) -> np.ndarray:
    """Whether each of the finest regions holds the centre of a digit of the pair, bool `[b r]`."""
    boxes = subject.graph.boxes[subject.graph.scale_slices[0]]  # [r 4], fractions of the frame
    corners = subject.videos["coords"][:, frame, :2]
    centres = (corners + generator.SPRITE / 2) / generator.CANVAS  # [b 2 2]
    held = region_loss.inside(jnp.asarray(boxes), jnp.asarray(centres[:, None]))  # [b 1 r 2]
    return np.asarray(held.any(-1)[:, 0])


def effects(subject: Subject, variables: Any, frame: int) -> np.ndarray:
    """What the true label loses in log probability if a region is silent in a frame, `[b r]`."""
    regions = np.arange(subject.graph.scales[0] ** 2)

    @jax.jit
    def losses(video: jax.Array, label: jax.Array) -> jax.Array:
        def with_silent(region: jax.Array) -> jax.Array:
            with nn.intercept_methods(interventions.silence(region, frame)):
                logits, _ = subject.module.apply(variables, video)
            return jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], 1)[:, 0]

        logits, _ = subject.module.apply(variables, video)
        plain = jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], 1)
        return plain - jnp.moveaxis(jax.lax.map(with_silent, regions), 0, 1)

    pairs = zip(batches(subject.videos["video"]), batches(subject.videos["label"]), strict=True)
    return np.concatenate([np.asarray(losses(*pair)) for pair in pairs])


def attention(subject: Subject, variables: Any, frame: int) -> np.ndarray:
    """Attention that the other regions pay to each of the finest in a frame, `[b r]`."""
    regions = subject.graph.scales[0] ** 2

    @jax.jit
    def paid(video: jax.Array) -> jax.Array:
        _, out = subject.module.apply(variables, video)
        weights = out["attention"][:, :, frame].sum(0)  # [b i j]
        return weights.sum(1)[:, :regions]

    return np.concatenate([np.asarray(paid(part)) for part in batches(subject.videos["video"])])


def score(values: np.ndarray, holds: np.ndarray) -> float:
    """The share of the `TOP` regions with the largest values that hold a digit of the pair."""
    best = np.argsort(-values, axis=1, kind="stable")[:, :TOP]
    return float(np.take_along_axis(holds, best, axis=1).mean())


def what_decides(subject: Subject) -> list[tuple[str, str]]:
    """How often the most important regions hold a digit of the pair."""
    frame = subject.videos["video"].shape[1] // 2
    chosen = subject.paired
    holds = holders(subject, frame)[chosen]
    shape = subject.videos["video"].shape[1:]
    drawn = jax.jit(subject.module.init)(jax.random.key(0), np.zeros((1, *shape), np.uint8))
    rows = [("chance: any region", f"{100 * holds.mean():.1f}")]
    for name, variables in (("trained", subject.weights.variables), ("random weights", drawn)):
        for what, measure in (("largest effect", effects), ("most attention", attention)):
            values = measure(subject, variables, frame)[chosen]
            rows.append((f"{what}, {name}", f"{100 * score(values, holds):.1f}"))
    return rows


def without_parts(subject: Subject) -> list[tuple[str, str]]:
    """Accuracy if parts of the graph never work."""
    graph, video, label = subject.graph, subject.videos["video"], subject.videos["label"]
    last = graph.num_nodes - 1  # the region of the whole frame, or the coarsest one
    centre = graph.scales[0] ** 2 // 2
    changes = {
        "nothing is switched off": None,
        "the coarsest region sees nothing": interventions.silence(last),
        "the central fine region sees nothing": interventions.silence(centre),
        "the coarsest region has no memory": interventions.forget(last),
        "the central fine region has no memory": interventions.forget(centre),
        "no message from the central fine to the coarsest region": interventions.cut(last, centre),
    }
    rows = []
    for name, change in changes.items():

        def predict(video: jax.Array, change: Any = change) -> jax.Array:
            if change is None:
                return subject.module.apply(subject.weights.variables, video)[0].argmax(1)
            with nn.intercept_methods(change):
                return subject.module.apply(subject.weights.variables, video)[0].argmax(1)

        found = np.concatenate([np.asarray(jax.jit(predict)(part)) for part in batches(video)])
        rows.append((name, accuracy(found == label)))
    return rows


# --- the page -------------------------------------------------------------------------------------


def table(title: str, head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    """A Markdown table under a heading."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ("---", "---"), *rows)]
    return f"## {title}\n\n" + "\n".join(lines) + "\n"


def page(subject: Subject, name: str) -> str:
    """The whole page."""
    count, paired = len(subject.videos["label"]), len(subject.paired)
    text = [
        f"# What `{name}` needs and what it looks at\n\n"
        f"Generated by `python -m benchmarks.analysis --weights={name} --videos={count}`; not "
        f"edited by hand. Test accuracy in % with its standard error, on {count:,} videos, of "
        f"which {paired:,} have a pair.\n",
        table("Frames", ("shown", "accuracy"), by_frames(subject)),
    ]
    if subject.weights.experiment.model.map_channels:
        text.append(
            table("A rule in place of the graph", ("reads the maps", "accuracy"), by_rule(subject))
            + "\nThe rule compares the steps of digits on the maps of the CNN, as the graph does, "
            "see benchmarks/map_rule.py.\n"
        )
    text.append(
        table("Answers", ("the most likely label is", "share of the videos"), by_answer(subject))
    )
    for measure, rows in by_difficulty(subject).items():
        text.append(table(f"By {measure.split(',')[0]}", (measure, "accuracy"), rows))
    text.append(table("Without parts of the graph", ("change", "accuracy"), without_parts(subject)))
    text.append(
        table(
            "What decides",
            ("regions", "hold a digit of the pair, %"),
            what_decides(subject),
        )
        + f"\nThe {TOP} regions of the finest scale with the largest values in the middle frame. "
        "An effect is what the true label loses in log probability if the region sees nothing in "
        "this frame; attention is what all regions pay to it in all space stages.\n"
    )
    return "\n".join(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = cli.command_parser("benchmarks.analysis", __doc__, whole=True)
    parser.add_argument("--weights", default="sync_mnist/lite3", help="name or .safetensors file")
    parser.add_argument("--videos", type=int, default=2000, help="test videos to use")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="directory of analysis.md")
    args, changes = cli.parse(parser, argv)
    studied = subject(args.weights, args.videos, changes)
    path = args.out / "analysis.md"
    files.write_text(path, page(studied, args.weights))
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
