"""Static charts as inline SVG: lines over steps, and a confusion matrix.

The SVG carries class names only; colours come from the page's style sheet
(`templates/report.html`), so that one drawing is readable on light and on dark ground.
"""

import dataclasses
import html
import math
from collections.abc import Sequence

import numpy as np

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 104, 14, 40
LABEL_GAP = 15  # smallest distance in pixels between two labels at the ends of lines
NUMBERED_CLASSES = 24  # confusion matrices up to this size show their counts


@dataclasses.dataclass(frozen=True)
class Line:
    """One curve of a chart.

    Attributes:
      name: shown at the end of the line, with the last value; empty for none.
      style: CSS class, which gives the colour.
      steps: horizontal positions, increasing.
      values: vertical positions, as many as `steps`.
      markers: draw a dot, with the value as a tooltip, at every point.
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
    across: tuple[str, str] = ("training step", "step"),
    logarithmic: bool = False,
) -> str:
    """Draws curves over training steps, or over anything else.

    Args:
      lines: the curves; those without points are left out.
      title: name of the quantity, read out by screen readers.
      percent: values are fractions, shown as 0% to 100%.
      reference: height and name of a dashed horizontal line.
      across: title of the horizontal axis, and what tooltips call a point of it.
      logarithmic: both axes; steps and values must then be positive. Steps of the first line are
        its ticks.

    Returns:
      One `<svg>` element.
    """
    lines = [line for line in lines if len(line.steps)]
    last_step = max((max(line.steps) for line in lines), default=1)
    highest = max((max(line.values) for line in lines), default=1.0)
    y_ticks = [0, 0.25, 0.5, 0.75, 1] if percent else ticks(highest)
    x_ticks: Sequence[float] = ticks(last_step)
    x_start, x_end = 0.0, max(last_step, 1)
    if logarithmic:
        x_ticks, y_ticks = lines[0].steps, decades([v for line in lines for v in line.values])
        x_start = min(min(line.steps) for line in lines)
    y_start, y_end = y_ticks[0], max(y_ticks[-1], highest)

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * share(step, x_start, x_end, logarithmic)

    def y(value: float) -> float:
        height = HEIGHT - TOP - BOTTOM
        return HEIGHT - BOTTOM - height * share(value, y_start, y_end, logarithmic)

    def text(value: float) -> str:
        return f"{value:.1%}" if percent else f"{value:.3g}"

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">']
    for tick in y_ticks:
        name = f"{tick:.0%}" if percent else f"{tick:g}"
        parts.append(
            f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}"/>'
            f'<text class="tick" x="{LEFT - 8}" y="{y(tick) + 4:.1f}" '
            f'text-anchor="end">{name}</text>'
        )
    for tick in (tick for tick in x_ticks if x_start <= tick <= x_end):
        parts.append(
            f'<text class="tick" x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 18}" '
            f'text-anchor="middle">{tick:,.0f}</text>'
        )
    parts.append(
        f'<text class="tick" x="{(LEFT + WIDTH - RIGHT) / 2:.1f}" y="{HEIGHT - 4}" '
        f'text-anchor="middle">{html.escape(across[0])}</text>'
    )
    labels = []
    if reference is not None:
        value, name = reference
        parts.append(f'<path class="reference" d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}"/>')
        labels.append((y(value), "reference", f"{name} {text(value)}"))
    for line in lines:
        points = [(x(a), y(b)) for a, b in zip(line.steps, line.values, strict=True)]
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
        parts.append(f'<path class="line {line.style}" d="M{path}"/>')
        if line.markers:
            parts.extend(
                f'<circle class="dot {line.style}" cx="{a:.1f}" cy="{b:.1f}" r="3.5">'
                f"<title>{html.escape(f'{line.name}, {across[1]} {step:,.0f}: {text(value)}')}"
                "</title></circle>"
                for (a, b), step, value in zip(points, line.steps, line.values, strict=True)
            )
        if line.name:
            labels.append((points[-1][1], line.style, f"{line.name} {text(line.values[-1])}"))
    for height, style, name in _spread(labels):
        parts.append(
            f'<text class="label {style}" x="{WIDTH - RIGHT + 8}" y="{height + 4:.1f}">'
            f"{html.escape(name)}</text>"
        )
    return "\n".join([*parts, "</svg>"])


def confusion_chart(confusion: np.ndarray, names: Sequence[str]) -> str:
    """Draws a confusion matrix, one row a true class; shades are shares of the row.

    Args:
      confusion: counts `[true][predicted]`.
      names: class names in the order of the rows.

    Returns:
      One `<svg>` element; every cell that is not empty has its counts as a tooltip.
    """
    size = len(names)
    numbered = size <= NUMBERED_CLASSES
    cell = max(13, min(46, 560 // size))
    font = min(13, cell - 2)
    margin = 34 + int(font * 0.62 * max(map(len, names)))
    side = margin + cell * size
    rotated = max(map(len, names)) * font * 0.62 > cell - 4
    # A large one is scrolled rather than shrunk until nobody can read its names.
    least = "" if numbered else f"min-width:{side + 2}px;"
    parts = [
        f'<svg viewBox="0 0 {side + 2} {side + 2}" class="confusion" role="img" '
        f'style="max-width:{side + 2}px;{least}font-size:{font}px" aria-label="confusion matrix">'
        f'<text x="{margin + cell * size / 2:.1f}" y="14" class="tick axis" '
        'text-anchor="middle">predicted</text>'
        f'<text x="0" y="0" class="tick axis" text-anchor="middle" '
        f'transform="translate(12 {margin + cell * size / 2:.1f}) rotate(-90)">true</text>'
    ]
    for index, name in enumerate(names):
        place = margin + cell * (index + 0.5)
        escaped = html.escape(name)
        parts.append(
            f'<text x="{margin - 8}" y="{place + font * 0.35:.1f}" '
            f'text-anchor="end">{escaped}</text>'
        )
        across = f'transform="translate({place:.1f} {margin - 8})'
        across += f' translate({font * 0.35:.1f} 0) rotate(-90)"' if rotated else '"'
        anchor = "start" if rotated else "middle"
        parts.append(f'<text {across} text-anchor="{anchor}">{escaped}</text>')
    if not numbered:  # one ground for all cells: they are tens of thousands
        parts.append(
            f'<rect class="blank" x="{margin}" y="{margin}" width="{cell * size}" '
            f'height="{cell * size}"/>'
        )
    for row, counts in enumerate(confusion):
        total = int(counts.sum())
        for column, count in enumerate(counts):
            if count or numbered:
                parts.append(_cell(row, column, int(count), total, names, margin, cell, numbered))
    return "\n".join([*parts, "</svg>"])


def _cell(
    row: int,
    column: int,
    count: int,
    total: int,
    names: Sequence[str],
    margin: int,
    cell: int,
    numbered: bool,
) -> str:
    """One square of the confusion matrix, shaded by its share of the row."""
    share = count / total if total else 0.0
    style = "right" if row == column else "wrong"
    x, y = margin + cell * column, margin + cell * row
    parts = []
    if numbered:
        parts.append(
            f'<rect class="blank" x="{x + 1}" y="{y + 1}" width="{cell - 2}" height="{cell - 2}"/>'
        )
    if count:
        tooltip = f"true {names[row]}, predicted {names[column]}: {count} of {total} ({share:.1%})"
        # A single mistake must stay visible beside hundreds of right answers.
        parts.append(
            f'<rect class="{style}" fill-opacity="{max(share, 0.12):.3f}" x="{x + 1}" y="{y + 1}" '
            f'width="{cell - 2}" height="{cell - 2}"><title>{html.escape(tooltip)}</title></rect>'
        )
    if count and numbered:
        strong = " strong" if share > 0.5 else ""
        parts.append(
            f'<text class="count{strong}" x="{x + cell / 2:.1f}" y="{y + cell / 2 + 4:.1f}" '
            f'text-anchor="middle">{count}</text>'
        )
    return "".join(parts)


def ticks(highest: float, count: int = 5) -> list[float]:
    """Round numbers from 0 up to at least `highest`, about `count` of them.

    Steps are 1, 2, 2.5 or 5 times a power of ten.
    """
    if not highest > 0 or not math.isfinite(highest):
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(highest / count))
    step = next(
        factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power * count >= highest
    )
    return [round(step * index, 10) for index in range(math.ceil(highest / step - 1e-9) + 1)]


def decades(values: Sequence[float]) -> list[float]:
    """Powers of ten, or of ten and twice and five times these, from below to above all values."""
    low, high = (math.log10(end(values)) for end in (min, max))
    factors = (1,) if high - low > 2 else (1, 2, 5)
    powers = range(math.floor(low), math.ceil(high) + 1)
    marks = [float(f"{factor}e{power}") for power in powers for factor in factors]
    first = max(i for i, mark in enumerate(marks) if mark <= min(values))
    last = min(i for i, mark in enumerate(marks) if mark >= max(values) and i > first)
    return marks[first : last + 1]


def share(value: float, start: float, end: float, logarithmic: bool = False) -> float:
    """Where a value lies on an axis: 0 at its start, 1 at its end."""
    if logarithmic:
        value, start, end = (math.log(number) for number in (value, start, end))
    return (value - start) / ((end - start) or 1)


def smooth(values: Sequence[float], window: int) -> np.ndarray:
    """Centred moving average, shorter at both ends; as long as `values`."""
    array = np.asarray(values, np.float64)
    sums = np.concatenate([[0.0], np.cumsum(array)])
    places = np.arange(len(array))
    start = np.maximum(places - window // 2, 0)
    end = np.minimum(places + window // 2 + 1, len(array))
    return (sums[end] - sums[start]) / (end - start)


def _spread(labels: Sequence[tuple[float, str, str]]) -> list[tuple[float, str, str]]:
    """Moves labels down, in order of height, until none covers another."""
    placed: list[tuple[float, str, str]] = []
    for height, style, name in sorted(labels):
        if placed:
            height = max(height, placed[-1][0] + LABEL_GAP)
        placed.append((height, style, name))
    overflow = max(0.0, placed[-1][0] - (HEIGHT - BOTTOM)) if placed else 0.0
    return [(height - overflow, style, name) for height, style, name in placed]
