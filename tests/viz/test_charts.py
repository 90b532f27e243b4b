"""Charts: the numbers in the artists, and the SVG made of them."""

import itertools
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from rstg_jax.viz import charts

SVG = "{http://www.w3.org/2000/svg}"


def axes_of(lines, **options):
    axes = charts.new_figure(*charts.SIZE).subplots()
    return axes, charts.draw_lines(axes, lines, **options)


def points(svg: str) -> tuple[list[tuple[float, float]], list[str]]:
    """Places and tooltips of the markers; those of the legend have no tooltip."""
    marks = [use for use in ElementTree.fromstring(svg).iter(f"{SVG}use") if len(use)]
    places = [(float(use.get("x")), float(use.get("y"))) for use in marks]
    return places, [use.find(f"{SVG}title").text for use in marks]


def texts(svg: str) -> list[str]:
    return [text.text for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_smooth_equals_a_loop_over_windows():
    values = np.random.default_rng(0).normal(size=23)
    expected = [np.mean(values[max(0, i - 3) : i + 4]) for i in range(23)]
    np.testing.assert_allclose(charts.smooth(values, 7), expected, rtol=0, atol=1e-12)
    assert charts.smooth([], 1).tolist() == []


def test_line_chart_places_points_on_its_axes():
    line = charts.Line("test", "test", [0, 50, 100], [0.0, 0.5, 1.0], markers=True)
    svg = charts.line_chart([line], title="accuracy", percent=True)
    places, tooltips = points(svg)
    assert tooltips == ["test, step 0: 0.0%", "test, step 50: 50.0%", "test, step 100: 100.0%"]
    (left, low), middle, (right, high) = places
    assert middle == pytest.approx(((left + right) / 2, (low + high) / 2), abs=1e-3)
    width, height = charts.SIZE
    assert 0 < left < 0.2 * width and 0.8 * width < right < width  # the SVG counts from the top
    assert 0 < high < 0.2 * height and 0.8 * height < low < height
    assert {"test 100.0%", "training step", "0%", "100%", "100"} <= set(texts(svg))
    axes, _ = axes_of([line], percent=True)
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [(0, 0), (50, 0.5), (100, 1)])
    assert axes.get_ylim() == (0, 1) and axes.get_xlim()[0] == 0


def test_labels_of_close_lines_do_not_cover_each_other():
    lines = [charts.Line(str(n), "train", [0, 10], [1, 0.5 + n / 1000]) for n in range(4)]
    axes, _ = axes_of(lines)
    FigureCanvasAgg(axes.figure).draw()
    labels = axes.get_legend().get_texts()
    assert [text.get_text() for text in labels] == ["0 0.5", "1 0.501", "2 0.502", "3 0.503"]
    boxes = [text.get_window_extent() for text in labels]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(axes.bbox.x0 <= box.x0 and box.x1 <= charts.SIZE[0] for box in boxes)


def test_line_chart_survives_an_empty_log_a_single_point_and_nan():
    for steps, values in (([], []), ([1], [0.0]), ([1, 2], [float("nan"), 1.0])):
        line = charts.Line("test", "test", steps, values, markers=True)
        svg = charts.line_chart([line], title="loss", reference=(0.5, "chance"))
        assert len(points(svg)[0]) == np.isfinite(values).sum()
        assert "chance 0.5" in texts(svg)


def test_confusion_chart_shows_every_count_once():
    confusion = np.array([[90, 10, 0], [0, 0, 0], [3, 4, 5]])
    svg = charts.confusion_chart(confusion, ["0-1", "<b>", "$none"])
    cells = {}
    for path in ElementTree.fromstring(svg).iter(f"{SVG}path"):
        if len(path):
            true, predicted, count, total = re.fullmatch(
                r"true (.+), predicted (.+): (\d+) of (\d+) \(.+\)", path[0].text
            ).groups()
            color = re.search(r"fill: var\(--(\w+)\)", path.get("style"))[1]
            shade = float(re.search(r"opacity: ([\d.]+)", path.get("style"))[1])
            cells[true, predicted] = (int(count), int(total), color, round(shade, 3))
    assert cells == {
        ("0-1", "0-1"): (90, 100, "right", 0.9),
        ("0-1", "<b>"): (10, 100, "wrong", 0.12),
        ("$none", "0-1"): (3, 12, "wrong", 0.25),
        ("$none", "<b>"): (4, 12, "wrong", 0.333),
        ("$none", "$none"): (5, 12, "right", 0.417),
    }
    assert [text for text in texts(svg) if text.isdigit()] == ["90", "10", "3", "4", "5"]
    assert texts(svg).count("<b>") == 2


def test_dollars_are_no_formulas():
    names = ["from $10{ to $20", "$x_1$"]
    assert set(names) <= set(texts(charts.confusion_chart(np.eye(2, dtype=int), names)))
    lines = [charts.Line(name, "test", [1, 2], [0.5, 1.0]) for name in names]
    assert {f"{name} 1" for name in names} <= set(texts(charts.line_chart(lines, title="")))


def test_large_confusion_chart_has_no_numbers_in_its_cells():
    size = charts.NUMBERED_CLASSES + 1
    names = [f"{n}-{n + 1}" for n in range(size)]
    svg = charts.confusion_chart(np.eye(size, dtype=int), names)
    assert sorted(texts(svg)) == sorted([*names, *names, "true", "predicted"])
    assert svg.count("<title>") == size


def test_a_power_law_is_straight_on_logarithmic_axes():
    steps = [1, 2, 4, 100]
    line = charts.Line("a<b", "test", steps, [0.01 * step**2 for step in steps], markers=True)
    axes, tooltips = axes_of([line], x_label="nodes", x_name="n", logarithmic=True)
    svg = charts.to_svg(axes.figure, "s", tooltips)
    places, found = points(svg)
    slopes = np.diff([y for _, y in places]) / np.diff([x for x, _ in places])
    np.testing.assert_allclose(slopes, slopes[0], rtol=1e-4)
    left, right = places[0][0], places[-1][0]
    assert places[1][0] == pytest.approx(left + (right - left) * np.log(2) / np.log(100), abs=1e-2)
    assert found[0] == "a<b, n 1: 0.01"
    assert {"nodes", "1", "2", "4", "100"} <= set(texts(svg))
    assert axes.get_yscale() == axes.get_xscale() == "log"
