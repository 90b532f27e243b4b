"""Metrics of every class, and the Markdown and CSV files of an evaluation."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rstg_jax.training import scores


def per_class(confusion: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Metrics of every class, in the order of the model's outputs.

    Args:
      confusion: counts `[true predicted]`.
      names: of the classes.

    Returns:
      ``class`` (its number), ``label`` (its name), ``examples``, ``top1`` (None without examples),
      ``confused_with`` (the most frequent wrong answer, the first of equals; None if there is none)
      and ``confused`` (its count).
    """
    rows = []
    for number, (label, counts) in enumerate(zip(names, np.asarray(confusion), strict=True)):
        examples, right = int(counts.sum()), int(counts[number])
        wrong = np.array(counts)
        wrong[number] = 0
        other = int(wrong.argmax())
        rows.append(
            {
                "class": number,
                "label": label,
                "examples": examples,
                "top1": right / examples if examples else None,
                "confused_with": names[other] if wrong[other] else None,
                "confused": int(wrong[other]),
            }
        )
    return rows


def classes(result: Mapping[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """Metrics of every class from those of a test, see `metrics.finalize`.

    Returns:
      `per_class`; or where videos have sets of labels ``class``, ``label``, ``examples`` and
      ``average_precision`` (None without examples).
    """
    if "confusion" in result:
        return per_class(result["confusion"], names)
    columns = zip(names, result["positives"], result["average_precision"], strict=True)
    return [
        {"class": number, "label": name, "examples": int(count), "average_precision": precision}
        for number, (name, count, precision) in enumerate(columns)
    ]


def table(rows: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """The rows of `classes` for people: a head, and a line for each class."""
    if "top1" not in rows[0]:
        head = ("class", "label", "videos", "average precision")
        return [head, *((*_start(row), _share(row["average_precision"])) for row in rows)]
    lines: list[tuple[Any, ...]] = [("class", "label", "videos", "top-1", "most confused with")]
    for row in rows:
        other = f"{row['confused_with']} ({row['confused']})" if row["confused"] else ""
        lines.append((*_start(row), _share(row["top1"]), other))
    return lines


def _start(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["class"], row["label"], row["examples"]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def confusions(confusion: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """All confusions as ``true``, ``predicted``, ``count``, the most frequent first."""
    wrong = np.array(confusion)
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[: np.count_nonzero(wrong)]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [{"true": names[i], "predicted": names[j], "count": int(wrong[i, j])} for i, j in pairs]


def markdown(result: Mapping[str, Any], title: str) -> str:
    """Formats the metrics of an evaluation as a Markdown page.

    Args:
      result: with ``examples``, ``loss``, the shares of `scores.accuracies`, ``classes`` and, where
        videos have one label, ``confusions``.
      title: title of the page.
    """
    metrics = scores.accuracies(result) | {"loss": f"{result['loss']:.5g}"}
    shares = ", ".join(f"{name} {value}" for name, value in metrics.items())
    head, *rows = (
        f"| {' | '.join(_cell(str(cell)) for cell in cells)} |"
        for cells in table(result["classes"])
    )
    right = "|---:|---|---:|---:|" + "---|" * (head.count(" | ") - 3)
    lines = [f"# {title}", "", f"{result['examples']} videos: {shares}", "", head, right, *rows]
    if "confusions" in result:
        lines += ["", "| mistakes | true | predicted |", "|---:|---|---|"]
        lines += [
            f"| {pair['count']} | {_cell(pair['true'])} | {_cell(pair['predicted'])} |"
            for pair in result["confusions"]
        ]
    return "\n".join(lines) + "\n"


def submission(
    ids: Sequence[str], labels: np.ndarray, names: Sequence[str], numbers: Mapping[str, int] | None
) -> str:
    """The best classes of every video, `id;1st;2nd;3rd;4th;5th`, one line per video, no header.

    Args:
      ids: of the videos.
      labels: classes of each, best first, int `[n k]`; k is 5, or less with fewer classes.
      names: of the classes.
      numbers: number to write for each name; the name itself if None.
    """
    text = io.StringIO()
    writer = csv.writer(text, delimiter=";", lineterminator="\n")
    for example, row in zip(ids, labels, strict=True):
        best = [names[label] for label in row]
        writer.writerow([example, *(best if numbers is None else [numbers[b] for b in best])])
    return text.getvalue()


def _cell(text: str) -> str:
    """Escapes text for a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")
