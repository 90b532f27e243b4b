"""Metrics of every class, and the Markdown and CSV files of an evaluation."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


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
      result: with ``examples``, ``loss``, ``top1``, ``top5``, ``classes`` (see `per_class`) and
        ``confusions``.
      title: title of the page.
    """
    lines = [
        f"# {title}",
        "",
        f"{result['examples']} videos: top-1 {result['top1']:.2%}, top-5 {result['top5']:.2%}, "
        f"loss {result['loss']:.5g}",
        "",
        "| class | label | videos | top-1 | most confused with |",
        "|---:|---|---:|---:|---|",
    ]
    for row in result["classes"]:
        top1 = "" if row["top1"] is None else f"{row['top1']:.1%}"
        other = (
            "" if row["confused_with"] is None else f"{row['confused_with']} ({row['confused']})"
        )
        cells = (row["class"], _cell(row["label"]), row["examples"], top1, _cell(other))
        lines.append(f"| {' | '.join(map(str, cells))} |")
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
