"""The HTML page of a report: one self-contained file with the metrics of a run and examples."""

import base64
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import humanize
import numpy as np

from rstg_jax import files, storage
from rstg_jax.errors import UserError
from rstg_jax.inference import class_metrics
from rstg_jax.rstg.region_graph import Graph, RegionGraph
from rstg_jax.training import logs, scores
from rstg_jax.training.metrics import TOP_K
from rstg_jax.viz import charts, draw_graph, html_page, panels, video_writer

PANEL_HEIGHT = 220  # of a video on the page, in pixels
MISTAKES = 15  # pairs of classes listed
TITLES = {
    "mAP": "Mean average precision",
    "top1": "Top-1 accuracy",
    "top5": "Top-5 accuracy",
    "loss": "Loss",
}
SMOOTHING = 40  # the thick training curve averages over 1 / SMOOTHING of the run


@dataclasses.dataclass(frozen=True)
class Record:
    """Metrics of a finished run.

    Attributes:
      result: `result.json`.
      config: `config.json`.
      metrics: Rows of `metrics.jsonl` under "train" and "test", in order of steps.
    """

    result: Mapping[str, Any]
    config: Mapping[str, Any]
    metrics: Mapping[str, Sequence[Mapping[str, Any]]]

    @property
    def name(self) -> str:
        """Name of the experiment."""
        return str(self.config.get("name", "run"))

    @property
    def label_names(self) -> list[str]:
        """Class names in the order of the model's outputs."""
        return list(self.result["label_names"])

    @property
    def confusion(self) -> np.ndarray:
        """Counts of the test split, int64 `[true][predicted]`."""
        return np.asarray(self.result["confusion"], np.int64)

    @property
    def headline(self) -> str:
        """Name of the metric in the title."""
        return scores.headline(self.result)

    @property
    def chance(self) -> float:
        """Accuracy of always predicting the most frequent class of the test split.

        For mAP that of a random order of the videos: their share with the class, mean over classes.
        """
        if "confusion" in self.result:
            totals = self.confusion.sum(axis=1)
            return float(totals.max() / max(totals.sum(), 1))
        positives = np.asarray(self.result["positives"])
        shares = positives[positives > 0] / max(self.result["examples"], 1)
        return float(shares.mean()) if len(shares) else 0.0

    @property
    def margin(self) -> float:
        """Half the 95% interval of the accuracy, by the normal approximation of the binomial."""
        top1 = self.result["top1"]
        return 1.96 * math.sqrt(top1 * (1 - top1) / max(self.result["examples"], 1))


def read_record(workdir: str | storage.Path) -> Record:
    """Reads `result.json`, `config.json` and `metrics.jsonl` of a finished run.

    Raises:
      UserError: A file is missing or damaged; the message says which.
    """
    workdir = storage.path(workdir)
    rows = logs.read(_existing(workdir / "metrics.jsonl"))
    metrics = {
        split: [row for (name, _), row in sorted(rows.items()) if name == split]
        for split in ("train", "test")
    }
    result, config = (
        files.read_json(_existing(workdir / f"{name}.json")) for name in ("result", "config")
    )
    return Record(result, config, metrics)


def _existing(path: storage.Path) -> storage.Path:
    if not path.exists():
        raise UserError(
            f"{path} is missing: finish the training first (train.py --workdir={path.parent})"
        )
    return path


def render(
    record: Record,
    examples: Sequence[panels.Example],
    graph: Graph | None,
    description: Sequence[str] = (),
) -> str:
    """Builds the page.

    Args:
      record: The metrics of the run.
      examples: Test videos with predictions, shown in this order.
      graph: The nodes that the attention refers to; None for networks without space stages.
      description: Paragraphs about task and data, see `DataConfig.describe`.
    """
    environment = html_page.environment()
    environment.filters |= {
        "about": humanize.naturaldelta,
        "count": lambda cell: humanize.intcomma(cell) if isinstance(cell, int) else cell,
        "duration": lambda seconds: humanize.precisedelta(round(seconds), format="%d"),
        "metric": humanize.metric,
        "percent": "{:.1%}".format,
    }
    names, single = record.label_names, record.headline == "top1"
    has_boxes = any(example.pair_boxes is not None for example in examples)
    return environment.get_template("report.html").render(
        record=record,
        result=record.result,
        names=names,
        description=description,
        tiles=_tiles(record),
        curves=[
            (TITLES[key], _curves(record, key, TITLES[key], percent=key != "loss"))
            for key in (*(() if single else ("mAP",)), "top1", "loss")
        ],
        videos=[_video(example, graph, names) for example in examples],
        pair_color=_css(panels.PAIR_COLOR) if has_boxes else None,
        nodes=_legend(graph),
        edges=draw_graph.EDGES,
        confusion=charts.confusion_chart(record.confusion, names) if single else "",
        mistakes=class_metrics.confusions(record.confusion, names)[:MISTAKES] if single else [],
        classes=class_metrics.table(class_metrics.classes(record.result, names)),
        provenance_keys=list(
            dict.fromkeys(key for s in record.result["data"].values() for key in s)
        ),
        config=json.dumps(record.config, indent=2),
    )


def _legend(graph: Graph | None) -> list[tuple[str, str]]:
    """The legend of the colours of the nodes."""
    if graph is None:
        return []
    kinds = ["object that the network sees"]
    if isinstance(graph, RegionGraph):
        kinds = [f"region of the {scale}×{scale} grid" for scale in graph.scales]
    return [(kind, _css(draw_graph.scale_color(i))) for i, kind in enumerate(kinds)]


def _tiles(record: Record) -> list[tuple[str, str, str]]:
    """Name, value and note of what a page begins with, the most important first."""
    result, names = record.result, record.label_names
    chance, top1, top5 = (
        f"{share:.1%}" for share in (record.chance, result["top1"], result["top5"])
    )
    if record.headline == "top1":
        tiles = [
            (TITLES["top1"], top1, f"± {record.margin:.1%} (95% interval)"),
            ("Chance level", chance, f"most frequent of {len(names)} classes"),
        ]
        top5_note = "true class among the five likeliest"
    else:
        tested = np.count_nonzero(result["positives"])
        tiles = [
            (TITLES["mAP"], f"{result['mAP']:.1%}", f"of {tested} classes with test videos"),
            ("Chance level", chance, "videos in random order"),
            (TITLES["top1"], top1, "likeliest class is a true one"),
        ]
        top5_note = "a true class among the five likeliest"
    return [*tiles, (TITLES["top5"], top5, top5_note)] if len(names) > TOP_K else tiles


def _curves(record: Record, key: str, title: str, *, percent: bool) -> str:
    """Training and test curves of one metric."""
    train, test = (
        [(row["step"], row[key]) for row in record.metrics[split] if row.get(key) is not None]
        for split in ("train", "test")
    )
    steps, values = [step for step, _ in train], [value for _, value in train]
    lines = [charts.Line("test", "test", [s for s, _ in test], [v for _, v in test], markers=True)]
    if train:  # mAP is known of whole splits only
        smoothed = charts.smooth(values, max(1, len(values) // SMOOTHING)).tolist()
        raw = charts.Line("", "raw", steps, values)
        lines = [raw, charts.Line("train", "train", steps, smoothed), *lines]
    reference = (record.chance, "chance") if key == record.headline else None
    return charts.line_chart(lines, title=title, percent=percent, reference=reference)


def _video(example: panels.Example, graph: Graph | None, names: Sequence[str]) -> dict[str, Any]:
    """The part of the page about one test video."""
    frames = panels.panels(example, graph, side=PANEL_HEIGHT)
    return {
        "webp": base64.b64encode(video_writer.encode_images(frames)).decode(),
        "width": frames[0].width,
        "height": frames[0].height,
        "correct": example.correct,
        "predicted": names[example.predicted],
        "probability": f"{float(example.probabilities[example.predicted]):.0%}",
        "truth": example.truth(names),
    }


def _css(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
