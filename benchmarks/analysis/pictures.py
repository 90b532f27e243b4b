"""The two pictures of the page: accuracy as charts, and what decides in a few videos."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from benchmarks.analysis import accuracy, what_decides
from benchmarks.analysis.subject import Share, Subject
from rstg_jax.data.sync_mnist import canvas
from rstg_jax.viz import charts, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EXAMPLES = 3
DPI = 120  # of the PNG, whose sizes are in inches
INK, MUTED, RULE = (charts.COLORS[name] for name in ("ink", "muted", "rule"))
LINE, SHUFFLED = charts.COLORS["test"], charts.COLORS["wrong"]
PAIR = tuple(channel / 255 for channel in panels.PAIR_COLOR)
EFFECT, PAID = "#ff7a00", "#2f8cff"  # shades of effects and of attention
OPAQUE = 0.75  # of the largest value in a frame


def accuracy_charts(
    frames: Mapping[int, Share],
    shuffled: Share,
    quarters: Mapping[str, Sequence[accuracy.Quarter]],
    guessing: float,
) -> str:
    """Draws accuracy against frames seen and against each measure of difficulty; an `<svg>`.

    Args:
      frames: accuracy by the number of frames.
      shuffled: with all frames in random order.
      quarters: as of `accuracy.by_difficulty`.
      guessing: as of `accuracy.guessing`, drawn as a line.
    """
    figure = charts.new_figure(840, 520)
    figure.set_facecolor("white")
    figure.subplots_adjust(0.065, 0.1, 0.985, 0.93, wspace=0.16, hspace=0.55)
    first, *others = figure.subplots(2, 2).flat
    _axes(first, "By how many frames are shown", "first frames", guessing)
    _points(first, list(frames), list(frames.values()), LINE, "-")
    last = max(frames)
    _points(first, [last], [shuffled], SHUFFLED, "none")
    note: Any = {"fontsize": 12, "xytext": (-8, -8), "textcoords": "offset points"}
    place = (last, 100 * (shuffled.mean - shuffled.error))
    first.annotate(f"all {last}, shuffled", place, ha="right", va="top", color=SHUFFLED, **note)
    note = {"fontsize": 12, "color": MUTED, "va": "bottom", "ha": "right"}
    first.text(last, 100 * guessing + 1, "naming any two of the digits", **note)
    first.set_xticks(list(frames))
    for axes, (measure, parts) in zip(others, quarters.items(), strict=True):
        name, _, unit = measure.partition(", ")
        _axes(axes, f"By {name}", unit, guessing)
        for part in parts:  # its range
            axes.hlines(100 * part.accuracy.mean, part.low, part.high, color=LINE, alpha=0.3, lw=5)
        _points(axes, [part.mean for part in parts], [part.accuracy for part in parts], LINE)
    return charts.to_svg(figure, "accuracy by frames and difficulty", {}, themed=False) + "\n"


def _axes(axes: "Axes", title: str, x_label: str, guessing: float) -> None:
    """Prepares a chart of accuracies in %."""
    axes.set_title(title, loc="left", fontsize=14, pad=10, color=INK)
    axes.set_xlabel(x_label, color=MUTED, fontsize=12)
    axes.set(ylim=(0, 100), yticks=range(0, 101, 25), axisbelow=True)
    axes.yaxis.set_major_formatter("{x:.0f}%")
    axes.tick_params(length=0, pad=6, labelcolor=MUTED, labelsize=12)
    axes.grid(axis="y", color=RULE, linewidth=1)
    axes.spines[:].set_visible(False)
    axes.axhline(100 * guessing, **charts.STYLES["reference"])


def _points(
    axes: "Axes", x: Sequence[float], shares: Sequence[Share], color: str, line: str = "none"
) -> None:
    """Draws accuracies with their standard errors."""
    means, errors = (100 * np.array(part) for part in zip(*shares, strict=True))
    style: Any = {"color": color, "linestyle": line, "linewidth": 2, "clip_on": False}
    axes.errorbar(x, means, errors, marker="o", markersize=5, capsize=4, **style)


def nodes(
    subject: Subject, frame: int, values: Mapping[str, np.ndarray], chosen: Sequence[int]
) -> bytes:
    """Draws how much the studied nodes matter in a frame of some videos; a PNG.

    A row for each video: the frame, and the frame under each measure. A node is the more opaque
    the larger its value is, relative to the largest one of the row, of effects and of attention
    each; it is clear if the value is negative.

    Args:
      subject: the model and its videos.
      frame: number of the frame.
      values: as of `what_decides.measures`, of all videos.
      chosen: numbers of the videos that are drawn.
    """
    from matplotlib.figure import Figure

    rows, columns = len(chosen), 1 + len(values)
    width, height = 0.35 + 1.75 * columns, 0.62 + 1.75 * rows
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    figure.subplots_adjust(0.36 / width, 0.03 / height, 1 - 0.02, 1 - 0.6 / height, 0.04, 0.04)
    grid = figure.subplots(rows, columns, squeeze=False)
    names, boxes = subject.weights.label_names, what_decides.node_boxes(subject, frame)
    for row, video in zip(grid, chosen, strict=True):
        corners = subject.videos["coords"][video, frame, :2]
        pair = canvas.sprite_boxes(corners, 1)  # y0 x0 y1 x1, fractions
        label = subject.videos["label"][video]
        share = np.exp(subject.log_likely[video, label])
        row[0].set_ylabel(f"{names[label]}, probability {share:.0%}", fontsize=9, color=INK)
        for axes in row:
            _frame(axes, subject.videos["video"][video, frame], pair)
        strongest = max(values[change][video].max() for change in what_decides.CHANGES)
        for axes, (name, value) in zip(row[1:], values.items(), strict=True):
            paid = name == what_decides.ATTENTION
            style = (value[video].max(), PAID, "{:.0%}") if paid else (strongest, EFFECT, "{:.1f}")
            _shades(axes, boxes[video], value[video], *style)
    for axes, name in zip(grid[0], ("the frame", *values), strict=True):
        axes.set_title(name, fontsize=10, color=INK, pad=5)
    left, right = (grid[0, k].get_position() for k in (1, columns - 2))
    middle, top = (left.x0 + right.x1) / 2, 1 - 0.24 / height
    heading: Any = {"ha": "center", "va": "center", "fontsize": 10, "color": MUTED}
    figure.text(
        middle, top, f"log odds that the true label loses if {subject.a_node} ...", **heading
    )
    return _png(figure)


def _frame(axes: "Axes", frame: np.ndarray, pair: np.ndarray) -> None:
    """Draws a frame `[h w 1]` with the boxes of the pair, in fractions of the frame."""
    from matplotlib.patches import Rectangle

    digits = np.dstack([np.full((*frame.shape[:2], 3), 255, np.uint8), frame[..., 0]])
    axes.set_facecolor("black")
    axes.imshow(digits, extent=(0, 1, 1, 0), zorder=2)  # white, over the shades of regions
    for y0, x0, y1, x1 in pair:
        box: Any = {"fill": False, "edgecolor": PAIR, "linewidth": 1.4, "zorder": 4}
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, **box))
        axes.plot((x0 + x1) / 2, (y0 + y1) / 2, "o", color=PAIR, markersize=3.5, zorder=4)
    axes.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(1, 0), aspect="equal")
    axes.spines[:].set_visible(False)


def _shades(
    axes: "Axes", boxes: np.ndarray, values: np.ndarray, full: float, color: str, text_format: str
) -> None:
    """Shades nodes by their values `[r]`, and frames the largest ones; some are not in the frame.

    Args:
      axes: of the frame.
      boxes: of the nodes, nan for those that are not there.
      values: of the nodes.
      full: value that is shaded the most.
      color: of the shade.
      text_format: of the values.
    """
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    top = what_decides.largest(values[None])[0]
    opacity = OPAQUE * np.clip(values / max(full, 1e-9), 0, 1)
    inset = 0.008
    for node in np.flatnonzero(~np.isnan(boxes[:, 0])):
        y0, x0, y1, x1 = boxes[node]
        corner, sides = (x0 + inset, y0 + inset), (x1 - x0 - 2 * inset, y1 - y0 - 2 * inset)
        axes.add_patch(Rectangle(corner, *sides, color=color, alpha=opacity[node], linewidth=0))
        if top[node]:
            edge: Any = {"fill": False, "edgecolor": "white", "linewidth": 1.6, "zorder": 3}
            axes.add_patch(Rectangle(corner, *sides, **edge))
        text: Any = {"fontsize": 6.5, "color": "white", "ha": "left", "va": "top", "zorder": 5}
        shown = text_format.format(values[node]).replace("-0.0", "0.0")
        stroke = [withStroke(linewidth=1.5, foreground="black")]
        axes.text(x0 + 0.025, y0 + 0.025, shown, path_effects=stroke, **text)


def _png(figure: Any) -> bytes:
    """Renders a figure as a small PNG, always to the same bytes."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    Image.open(drawn).convert("RGB").save(small, "PNG", optimize=True)
    return small.getvalue()
