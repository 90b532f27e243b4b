"""The figures of `benchmarks.scaling` as one drawing of small charts."""

from collections.abc import Mapping, Sequence
from typing import Any

from rstg_jax.viz import charts

COLUMNS, GAP = 2, 50
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
POWERS = {"features": (2, "quadratic")}  # of the law drawn beside the measurements; else linear


def drawing(factors: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Draws time and memory against every factor that was measured; one `<svg>` document.

    Args:
      factors: rows of `benchmarks.scaling` by factor, in order of the factor.
    """
    panels = [panel for panel in PANELS if panel[0] in factors]
    rows = -(-len(panels) // COLUMNS)
    width, height = COLUMNS * charts.SIZE[0], rows * (charts.SIZE[1] + GAP)
    figure = charts.new_figure(width, height)
    figure.set_facecolor("white")
    figure.subplots_adjust(0.06, 46 / height, 0.98, 1 - 60 / height, hspace=0.5)
    tooltips: charts.Tooltips = {}
    for number, (factor, quantity) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, COLUMNS, number)
        title = f"{NAMES[quantity][0]} against {AXES[factor]}"
        axes.set_title(title, loc="left", fontsize=15, pad=24)
        tooltips |= charts.draw_lines(
            axes,
            curves(factor, quantity, factors[factor]),
            name=title,
            x_label=AXES[factor],
            x_name=factor,
            logarithmic=True,
        )
    return charts.to_svg(figure, "scaling of the block", tooltips, themed=False) + "\n"


def curves(factor: str, quantity: str, rows: Sequence[Mapping[str, Any]]) -> list[charts.Line]:
    """The measurements, and a power law through the first of them."""
    unit = NAMES[quantity][1]
    x, y = [row[factor] for row in rows], [unit * row[quantity] for row in rows]
    power, law = POWERS.get(factor, (1, "linear"))
    return [
        charts.Line("measured", "test", x, y, markers=True),
        charts.Line(law, "reference", x, [y[0] * (value / x[0]) ** power for value in x]),
    ]
