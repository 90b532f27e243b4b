"""Charts of a run as SVG: curves, and a confusion matrix.

Charts are drawn with the colours of `COLORS`. In a page, `to_svg` replaces each of them by the CSS
variable of the same name, so one drawing suits a light and a dark theme.
"""

import dataclasses
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

if TYPE_CHECKING:  # loaded when a chart is drawn: it takes a while
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (560, 300)  # of a line chart, in pixels
DPI = 72  # the unit of a Matplotlib SVG is a point: at 72 dots per inch it is a pixel as well
NUMBERED_CLASSES = 24  # confusion matrices up to this size show their counts
COLORS = {
    "ink": "#1c2128",
    "muted": "#5f6876",
    "rule": "#e3e5e8",
    "train": "#8a93a1",
    "test": "#2457d6",
    "right": "#157347",
    "wrong": "#c2410c",
    "on-strong": "#ffffff",
}
STYLES: Mapping[str, Mapping[str, Any]] = {
    "raw": {"color": COLORS["train"], "linewidth": 1, "alpha": 0.3},
    "train": {"color": COLORS["train"], "linewidth": 2.2},
    "test": {"color": COLORS["test"], "linewidth": 2.2},
    "other": {"color": COLORS["right"], "linewidth": 2.2},
    "reference": {"color": COLORS["muted"], "linewidth": 1, "linestyle": (0, (4, 4))},
}
FONT = "DejaVu Sans"  # which Matplotlib ships, to measure texts; the page has its own
SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"

Style = dict[str, Any]  # keyword arguments of an artist
Tooltips = dict[str, list[str]]  # gid of an artist -> text for each marker or patch in it


@dataclasses.dataclass(frozen=True)
class Line:
    """One curve of a chart.

    Attributes:
      name: Shown in the legend, with the last value; an empty name is left out.
      style: Key of `STYLES`.
      steps: Horizontal positions, increasing.
      values: Vertical positions, as many as `steps`.
      markers: Draws a dot at every point, with the value as a tooltip.
    """

    name: str
    style: str
    steps: Sequence[float]
    values: Sequence[float]
    markers: bool = False


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    percent: bool = False,
    reference: tuple[float, str] | None = None,
) -> str:
    """Draws curves over training steps.

    Args:
      lines: The curves; those without points are left out.
      title: Name of the quantity, for screen readers.
      percent: Values are fractions, shown as 0% to 100%.
      reference: Height and name of a dashed horizontal line.

    Returns:
      One `<svg>` element for the page.
    """
    if reference is not None:
        steps = [step for line in lines for step in line.steps] or [0, 1]
        ends = [0, max(steps)]
        lines = [*lines, Line(reference[1], "reference", ends, [reference[0]] * 2)]
    figure = new_figure(*SIZE)
    figure.subplots_adjust(left=0.09, right=0.985, bottom=0.14, top=0.89)
    tooltips = draw_lines(figure.subplots(), lines, percent=percent)
    return to_svg(figure, title, tooltips)


def new_figure(width: float, height: float) -> "Figure":
    """Makes an empty, transparent figure of a size in pixels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="none")


def draw_lines(
    axes: "Axes",
    lines: Sequence[Line],
    *,
    name: str = "",
    percent: bool = False,
    logarithmic: bool = False,
    x_label: str = "training step",
    x_name: str = "step",
) -> Tooltips:
    """Draws curves, with a legend that shows their last values.

    Args:
      axes: Empty axes.
      lines: The curves; those without points are left out.
      name: Of these axes, unique in the figure.
      percent: Values are fractions, shown as 0% to 100%.
      logarithmic: For both axes. Steps and values must then be positive.
      x_label: Title of the horizontal axis.
      x_name: Name of a horizontal position in tooltips.
    """
    tooltips: Tooltips = {}
    for number, line in enumerate(line for line in lines if len(line.steps)):
        label = f"{line.name} {_value(line.values[-1], percent)}" if line.name else "_"
        marker: Style = (
            {"marker": "o", "markersize": 7, "markeredgewidth": 0} if line.markers else {}
        )
        style: Style = {**STYLES[line.style], **marker, "label": label, "clip_on": False}
        (drawn,) = axes.plot(line.steps, line.values, **style)
        if line.markers:
            drawn.set_gid(f"{name} {number}")
            tooltips[str(drawn.get_gid())] = [
                f"{line.name}, {x_name} {step:,.0f}: {_value(value, percent)}"
                for step, value in zip(line.steps, line.values, strict=True)
                if math.isfinite(value)
            ]
    _format_axes(axes, lines, percent=percent, logarithmic=logarithmic)
    axes.set_xlabel(x_label, color=COLORS["muted"], fontsize=12)
    named = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    if named:
        place: Style = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": len(named)}
        axes.legend(handles=named, frameon=False, fontsize=12.5, labelcolor="linecolor", **place)
    return tooltips


def _format_axes(axes: "Axes", lines: Sequence[Line], *, percent: bool, logarithmic: bool) -> None:
    """Scales the axes and draws their ticks and grid."""
    from matplotlib import ticker

    if logarithmic:
        axes.set(xscale="log", yscale="log", xticks=next(line.steps for line in lines))
        axes.minorticks_off()
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5), numticks=12))
        axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    else:
        axes.set_xlim(left=0)
        values = [value for line in lines for value in line.values if math.isfinite(value)]
        highest = 1 if percent else max(values, default=1) or 1
        y_ticks = ticker.MaxNLocator(5).tick_values(0, highest)
        axes.set(yticks=y_ticks, ylim=(0, y_ticks[-1]))
        axes.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
        if percent:
            axes.yaxis.set_major_formatter(ticker.PercentFormatter(1))
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    axes.tick_params(length=0, pad=6, labelcolor=COLORS["muted"], labelsize=12)
    axes.grid(axis="y", color=COLORS["rule"], linewidth=1)
    axes.spines[:].set_visible(False)
    axes.set(facecolor="none", axisbelow=True)


def confusion_chart(confusion: np.ndarray, names: Sequence[str]) -> str:
    """Draws a confusion matrix with one row per true class, shaded by the share of the row.

    Args:
      confusion: Counts `[true][predicted]`.
      names: Class names in the order of the rows.

    Returns:
      One `<svg>` element for the page; every cell that is not empty has a tooltip.
    """
    from matplotlib.patches import Rectangle

    size = len(names)
    numbered = size <= NUMBERED_CLASSES
    cell = max(13, min(46, 560 // size))  # pixels
    font = min(13, cell - 2)
    label = 0.62 * font * max(map(len, names))  # width of the longest name, at most
    side = 34 + label + cell * size
    figure = new_figure(side, side)
    # One unit of these axes is a cell.
    axes = figure.add_axes((0, 0, 1, 1), xlim=(size - side / cell, size))
    axes.set(ylim=(size, size - side / cell))
    axes.set_axis_off()
    square: Style = {
        "width": 1 - 2 / cell,
        "height": 1 - 2 / cell,
        "linewidth": 0,
        "clip_on": False,
    }
    blank: Style = {"facecolor": COLORS["rule"], "alpha": 0.35}
    if not numbered:  # one background for all cells: there are tens of thousands
        axes.add_patch(Rectangle((0, 0), size, size, linewidth=0, clip_on=False, **blank))
    tooltips: Tooltips = {}
    for row, column in np.ndindex(size, size):
        count, total = int(confusion[row, column]), int(confusion[row].sum())
        place = (column + 1 / cell, row + 1 / cell)
        if numbered:
            axes.add_patch(Rectangle(place, **square, **blank))
        if not count:
            continue
        share = count / total
        color = COLORS["right" if row == column else "wrong"]
        # A single mistake must stay visible beside hundreds of correct predictions.
        patch = Rectangle(place, **square, facecolor=color, alpha=max(share, 0.12))
        patch.set_gid(f"cell {row} {column}")
        axes.add_patch(patch)
        text = f"true {names[row]}, predicted {names[column]}: {count} of {total} ({share:.1%})"
        tooltips[f"cell {row} {column}"] = [text]
        if numbered:
            ink, weight = ("on-strong", "bold") if share > 0.5 else ("ink", "normal")
            style: Style = {
                "color": COLORS[ink],
                "weight": weight,
                "size": font,
                "va": "center_baseline",
            }
            axes.text(column + 0.5, row + 0.5, f"{count}", ha="center", **style)
    _label_classes(axes, names, font, gap=8 / cell, rotated=label > cell - 4)
    return to_svg(figure, "confusion matrix", tooltips)


def _label_classes(
    axes: "Axes", names: Sequence[str], font: float, *, gap: float, rotated: bool
) -> None:
    """Names the rows and columns of a confusion matrix. Plain texts: ticks take seconds."""
    style: Style = {"color": COLORS["ink"], "size": font}
    turned: Style = {"rotation": 90, "ha": "center", "va": "bottom"}
    upright: Style = {"ha": "center", "va": "baseline"}
    for index, name in enumerate(names):
        axes.text(-gap, index + 0.5, name, ha="right", va="center_baseline", **style)
        axes.text(index + 0.5, -gap, name, **(turned if rotated else upright), **style)
    muted: Style = {"color": COLORS["muted"], "size": 13}
    middle, edge = len(names) / 2, axes.get_xlim()[0]
    axes.text(middle, edge, "predicted", ha="center", va="top", **muted)
    axes.text(edge, middle, "true", rotation=90, ha="left", va="center", **muted)


def to_svg(figure: "Figure", title: str, tooltips: Tooltips, *, themed: bool = True) -> str:
    """Renders a figure, always to the same text.

    Args:
      figure: Drawn with `COLORS`.
      title: Name of the figure, for screen readers.
      tooltips: As of `draw_lines`.
      themed: Replaces the colours by CSS variables of the page.
    """
    import matplotlib
    from matplotlib.text import Text

    buffer = io.StringIO()
    options: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": title,
        "text.parse_math": False,  # of texts that are made while it is drawn
        "font.sans-serif": FONT,
    }
    for label in figure.findobj(Text):  # names of classes: dollars in them are no formulas
        label.set_parse_math(False)
    with matplotlib.rc_context(options), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the browser has others
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(buffer.getvalue())
    width, height = root.attrib["viewBox"].split()[2:]
    root.attrib.update({"width": width, "height": height, "role": "img", "aria-label": title})
    if not themed:  # a file of its own, to which no page gives a font
        root.attrib["font-family"] = "system-ui, sans-serif"
    for group in root.iter(f"{{{SVG}}}g"):
        # Two charts of a page must not share an id.
        texts = tooltips.get(group.attrib.pop("id", ""), ())
        shapes = list(group.iter(f"{{{SVG}}}use")) or list(group.iter(f"{{{SVG}}}path"))
        for shape, text in zip(shapes if texts else (), texts, strict=True):
            ElementTree.SubElement(shape, f"{{{SVG}}}title").text = text
    svg = ElementTree.tostring(root, encoding="unicode")
    svg = svg.replace(f"font-family: '{FONT}', sans-serif; ", "")
    if themed:
        for name, color in COLORS.items():
            svg = svg.replace(color, f"var(--{name})")
    return svg


def smooth(values: Sequence[float], window: int) -> np.ndarray:
    """Centred moving average over an odd number of values, fewer at both ends; same length."""
    if not len(values):
        return np.zeros(0)
    kernel = np.ones(window // 2 * 2 + 1)
    sums, counts = (np.convolve(v, kernel, "same") for v in (values, np.ones(len(values))))
    return sums / counts


def _value(value: float, percent: bool) -> str:
    return f"{value:.1%}" if percent else f"{value:.3g}"
