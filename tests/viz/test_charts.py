import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from rstg_jax.viz import charts


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


@pytest.mark.parametrize(
    ("highest", "expected"),
    [
        (2.3, [0, 0.5, 1, 1.5, 2, 2.5]),
        (6000, [0, 2000, 4000, 6000]),
        (1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, [0, 1]),
        (float("nan"), [0, 1]),
    ],
)
def test_ticks_are_round_and_cover_the_highest_value(highest, expected):
    assert charts.ticks(highest) == expected


def test_smooth_equals_a_loop_over_windows():
    values = np.random.default_rng(0).normal(size=23)
    expected = [np.mean(values[max(0, i - 3) : i + 4]) for i in range(23)]
    np.testing.assert_allclose(charts.smooth(values, 7), expected, rtol=0, atol=1e-12)


def test_line_chart_places_points_on_its_axes():
    line = charts.Line("test", "test", [0, 50, 100], [0.0, 0.5, 1.0], markers=True)
    svg = parse(charts.line_chart([line], title="accuracy", percent=True))
    dots = [(float(d.get("cx")), float(d.get("cy"))) for d in svg.iter("circle")]
    left, right = charts.LEFT, charts.WIDTH - charts.RIGHT
    low, high = charts.HEIGHT - charts.BOTTOM, charts.TOP
    assert dots == [(left, low), ((left + right) / 2, (low + high) / 2), (right, high)]
    assert [d.find("title").text for d in svg.iter("circle")][1] == "test, step 50: 50.0%"
    assert svg.find("text[@class='label test']").text == "test 100.0%"


def test_labels_of_close_lines_do_not_cover_each_other():
    lines = [charts.Line(str(n), "train", [0, 10], [1, 0.5 + n / 1000]) for n in range(4)]
    svg = parse(charts.line_chart(lines, title="loss"))
    heights = sorted(float(text.get("y")) for text in svg.findall("text[@class='label train']"))
    assert len(heights) == 4
    assert min(np.diff(heights)) >= charts.LABEL_GAP - 0.11
    assert heights[-1] <= charts.HEIGHT - charts.BOTTOM + 5


def test_line_chart_survives_an_empty_log_and_a_single_point():
    parse(charts.line_chart([charts.Line("test", "test", [], [])], title="loss"))
    parse(charts.line_chart([charts.Line("test", "test", [1], [0.0])], title="loss"))


def test_confusion_chart_shows_every_count_once():
    confusion = np.array([[90, 10, 0], [0, 0, 0], [3, 4, 5]])
    svg = parse(charts.confusion_chart(confusion, ["0-1", "<b>", "none"]))
    cells = {}
    for rect in svg.iter("rect"):
        if rect.find("title") is not None:
            text = rect.find("title").text
            true, predicted, count, total = re.fullmatch(
                r"true (.+), predicted (.+): (\d+) of (\d+) \(.+\)", text
            ).groups()
            shade = float(rect.get("fill-opacity"))
            cells[true, predicted] = (int(count), int(total), rect.get("class"), shade)
    assert cells == {
        ("0-1", "0-1"): (90, 100, "right", 0.9),
        ("0-1", "<b>"): (10, 100, "wrong", 0.12),
        ("none", "0-1"): (3, 12, "wrong", 0.25),
        ("none", "<b>"): (4, 12, "wrong", 0.333),
        ("none", "none"): (5, 12, "right", 0.417),
    }
    numbers = [t.text for t in svg.iter("text") if (t.get("class") or "").startswith("count")]
    assert numbers == ["90", "10", "3", "4", "5"]


def test_large_confusion_chart_has_no_numbers_in_its_cells():
    size = charts.NUMBERED_CLASSES + 1
    svg = charts.confusion_chart(np.eye(size, dtype=int), [f"{n}-{n + 1}" for n in range(size)])
    assert 'class="count' not in svg
    assert svg.count("<title>") == size


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.03, 7], [0.01, 0.1, 1, 10]),
        ([3, 40], [2, 5, 10, 20, 50]),
        ([1], [1, 2]),
        ([0.1, 10], [0.1, 0.2, 0.5, 1, 2, 5, 10]),
    ],
)
def test_decades_surround_all_values(values, expected):
    assert charts.decades(values) == expected


def test_a_power_law_is_straight_on_logarithmic_axes():
    steps = [1, 2, 4, 100]
    line = charts.Line("a<b", "test", steps, [0.01 * step**2 for step in steps], markers=True)
    svg = parse(charts.line_chart([line], title="s", across=("nodes", "n"), logarithmic=True))
    dots = [(float(d.get("cx")), float(d.get("cy"))) for d in svg.iter("circle")]
    slopes = np.diff([y for _, y in dots]) / np.diff([x for x, _ in dots])
    np.testing.assert_allclose(slopes, slopes[0], rtol=5e-3)
    left, right = charts.LEFT, charts.WIDTH - charts.RIGHT
    assert dots[0] == (left, charts.HEIGHT - charts.BOTTOM)
    assert dots[-1] == (right, charts.TOP)
    assert dots[1][0] == pytest.approx(left + (right - left) * np.log(2) / np.log(100), abs=0.1)
    assert svg.find("circle/title").text == "a<b, n 1: 0.01"
    assert "nodes" in [text.text for text in svg.findall("text[@class='tick']")]
