"""Writes labels over time: as JSON, csv, subtitles (WebVTT) and a picture (SVG)."""

import contextlib
import csv
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rstg_jax import files
from rstg_jax.errors import UserError, reason
from rstg_jax.inference import predictor, timeline
from rstg_jax.inference.evaluation import as_records
from rstg_jax.inference.timeline import Timeline
from rstg_jax.training import trained_model
from rstg_jax.viz import charts, output_files, panels

SUFFIXES = (".json", ".csv", ".vtt", ".svg")
ROWS = 8  # labels in the picture
WIDTH, ROW, TOP, BOTTOM = 900, 30, 14, 46  # of the picture, in pixels
NAME_WIDTH = 240  # of the names in it


def predict(
    model: trained_model.TrainedModel,
    videos: predictor.Videos,
    requests: Sequence[predictor.VideoRequest],
    out: Path,
    cut: timeline.Cut,
) -> Iterator[dict[str, Any]]:
    """Predicts videos over time and writes the files of each.

    Args:
      model: The model.
      videos: Finds them.
      requests: From `Videos.find`.
      out: Directory of the files.
      cut: Into which parts.

    Yields:
      ``{"video": name, "frames": t, "parts": n, "written": [paths]}``, or ``{"video": name,
      "error": message}``.
    """
    make = timeline.maker(model, cut)
    names = [request.name for request in requests]
    paths = output_files.paths_in(out, names, "--timeline", SUFFIXES)
    for request, path in zip(requests, paths, strict=True):
        with predictor.recording(request) as record:
            found = make(videos.encoded(request))
            record |= {"frames": found.frames, "parts": len(found.bounds)}
            written = write(path, request.name, found, model.label_names)
            record["written"] = list(map(str, written))
        yield record


class Segment(NamedTuple):
    """A stretch in which one label is the most likely.

    Attributes:
      start: In seconds.
      end: In seconds.
      label: Number of the label.
      probability: Its mean over the stretch.
    """

    start: float
    end: float
    label: int
    probability: float


def segments(found: Timeline) -> list[Segment]:
    """Joins neighbouring parts that have the same most likely label."""
    joined, edges, first = [], found.edges, 0
    for label, run in itertools.groupby(found.labels[:, 0].tolist()):
        last = first + sum(1 for _ in run)
        mean = float(
            np.average(found.probabilities[first:last, 0], weights=np.diff(edges[first : last + 1]))
        )
        joined.append(Segment(float(edges[first]), float(edges[last]), label, mean))
        first = last
    return joined


def write(path: Path, video: str, found: Timeline, names: Sequence[str]) -> list[Path]:
    """Writes the four files of a timeline beside each other: all of them, or none.

    Args:
      path: Of the JSON file; the others have the same name before their suffixes.
      video: Name of the video.
      found: Its labels over time.
      names: Of the labels.

    Returns:
      The paths of the files.

    Raises:
      UserError: They cannot be written.
    """
    texts = (
        as_json(video, found, names),
        as_csv(found, names),
        as_webvtt(found, names),
        draw(found, names),
    )
    paths = [path.with_suffix(suffix) for suffix in SUFFIXES]
    try:
        with contextlib.ExitStack() as stack:
            for file, text in zip(paths, texts, strict=True):
                stack.enter_context(files.replacing(file)).write_text(text, "utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason(error)}") from error
    return paths


def _parts(found: Timeline, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Times, in seconds, and labels of each part."""
    times = (found.bounds / float(found.fps)).round(3).tolist()
    rows = zip(times, found.labels, found.probabilities, strict=True)
    for (start, end), labels, probabilities in rows:
        yield {
            "start": start,
            "end": end,
            "predictions": as_records(labels, probabilities, names),
        }


def as_json(video: str, found: Timeline, names: Sequence[str]) -> str:
    """Everything: the parts with their frames and labels, and the segments."""
    parts = [
        {"frames": frames, **part}
        for frames, part in zip(found.bounds.tolist(), _parts(found, names), strict=True)
    ]
    content = {
        "video": video,
        "frames": found.frames,
        "fps": float(found.fps),
        "parts": parts,
        "segments": [s._asdict() | {"label": names[s.label]} for s in segments(found)],
    }
    return json.dumps(content, indent=1) + "\n"


def as_csv(found: Timeline, names: Sequence[str]) -> str:
    """A line for each label of each part."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("start", "end", "rank", "label", "probability"))
    for part in _parts(found, names):
        for rank, best in enumerate(part["predictions"], start=1):
            line = (part["start"], part["end"], rank, best["label"], f"{best['probability']:.4f}")
            table.writerow(line)
    return text.getvalue()


def as_webvtt(found: Timeline, names: Sequence[str]) -> str:
    """Subtitles: the most likely label of each segment."""
    cues = ["WEBVTT\n"]
    for segment in segments(found):
        label = " ".join(names[segment.label].split())
        for character, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            label = label.replace(character, escaped)
        times = f"{clock(segment.start)} --> {clock(segment.end)}"
        cues.append(f"{times}\n{label} {segment.probability:.0%}\n")
    return "\n".join(cues)


def clock(seconds: float) -> str:
    """A time as in "00:01:02.500"."""
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}.{rest % 1000:03}"


def draw(found: Timeline, names: Sequence[str]) -> str:
    """Draws the labels that are longest the most likely, the darker the likelier; an SVG."""
    edges = found.edges
    longest = np.zeros(len(names))
    np.add.at(longest, found.labels[:, 0], np.diff(edges))
    rows = np.argsort(-longest, kind="stable")[:ROWS]
    rows = rows[longest[rows] > 0]
    shown = np.zeros((len(rows), len(edges) - 1), np.float32)
    for row, label in enumerate(rows):
        part, rank = np.nonzero(found.labels == label)
        shown[row, part] = found.probabilities[part, rank]
    height = TOP + BOTTOM + ROW * len(rows)
    figure = charts.new_figure(WIDTH, height)
    figure.set_facecolor("white")
    place = (
        NAME_WIDTH / WIDTH,
        BOTTOM / height,
        1 - (NAME_WIDTH + 24) / WIDTH,
        1 - (BOTTOM + TOP) / height,
    )
    axes = figure.add_axes(place)
    axes.pcolormesh(
        edges, np.arange(len(rows) + 1), shown, cmap="Blues", vmin=0, vmax=1, rasterized=True
    )
    axes.invert_yaxis()
    texts = [panels.fit_text(names[label], 14, NAME_WIDTH - 20)[0] for label in rows]
    axes.set_yticks(np.arange(len(rows)) + 0.5, texts)
    axes.xaxis.set_major_formatter(lambda seconds, _: clock(seconds)[:8])
    axes.tick_params(length=0, pad=6, labelcolor=charts.COLORS["ink"], labelsize=12)
    axes.set_xlabel("time", color=charts.COLORS["muted"], fontsize=12)
    axes.spines[:].set_visible(False)
    return charts.to_svg(figure, "labels over time", {}, themed=False) + "\n"
