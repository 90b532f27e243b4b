"""The figures of `benchmarks.scaling` as one drawing of small charts."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from rstg_jax.viz import charts

COLUMNS, GAP, TITLE = 2, 24, 26
# Factor and quantity of each chart, in reading order.
PANELS = (
    ("frames", "seconds"),
    ("frames", "temp_bytes"),
    ("nodes", "seconds"),
    ("features", "seconds"),
    ("iterations", "seconds"),
    ("clips", "seconds"),
)
NAMES = {"seconds": ("Seconds", 1.0), "temp_bytes": ("Temporary memory, GB", 1e-9)}
AXES = {
    "frames": "frames of a clip",
    "nodes": "nodes of a frame",
    "features": "features of a node",
    "iterations": "iterations K",
    "clips": "clips of a batch",
}
POWERS = {"features": (2, "quadratic")}  # of what is drawn beside the figures; else linear
STYLE = """
svg { overflow: visible; }
text { font: 12px system-ui, sans-serif; fill: #1c2128; } .title { font-size: 15px; }
.ground { fill: #ffffff; } .grid { stroke: #e3e5e8; fill: none; } text.tick { fill: #5f6876; }
.line { fill: none; stroke-width: 2.2; } .line.test { stroke: #2457d6; } .dot { fill: #2457d6; }
.line.reference { stroke: #5f6876; stroke-width: 1; stroke-dasharray: 4 4; }
text.label.test { fill: #2457d6; font-weight: 600; } text.label.reference { fill: #5f6876; }
"""


def drawing(factors: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Draws time and memory against every factor that was measured; one `<svg>` document.

    Args:
      factors: rows of `benchmarks.scaling` by factor, in order of the factor.
    """
    panels = [panel for panel in PANELS if panel[0] in factors]
    wide, high = charts.WIDTH + GAP, charts.HEIGHT + TITLE + GAP
    width, height = COLUMNS * wide + GAP, -(-len(panels) // COLUMNS) * high + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">'
        f'<style>{STYLE}</style><rect class="ground" width="{width}" height="{height}"/>'
    ]
    for number, (factor, quantity) in enumerate(panels):
        x, y = GAP + number % COLUMNS * wide, GAP + number // COLUMNS * high
        title = html.escape(f"{NAMES[quantity][0]} against {AXES[factor]}")
        place = f'x="{x}" y="{y + TITLE}" width="{charts.WIDTH}" height="{charts.HEIGHT}"'
        inner = chart(factor, quantity, factors[factor])
        parts.append(f'<text class="title" x="{x}" y="{y + 12}">{title}</text>')
        parts.append(inner.replace("<svg ", f"<svg {place} ", 1))
    return "\n".join([*parts, "</svg>\n"])


def chart(factor: str, quantity: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """One chart, both axes logarithmic: the figures, and a power spec through the first of them."""
    name, unit = NAMES[quantity]
    x, y = [row[factor] for row in rows], [unit * row[quantity] for row in rows]
    power, spec = POWERS.get(factor, (1, "linear"))
    lines = [
        charts.Line("measured", "test", x, y, markers=True),
        charts.Line(spec, "reference", x, [y[0] * (value / x[0]) ** power for value in x]),
    ]
    return charts.line_chart(lines, title=name, across=(AXES[factor], factor), logarithmic=True)
