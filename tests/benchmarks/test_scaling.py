"""The scaling tables: what they count, the laws they fit, and that all of it runs."""

import json
import sys
import xml.etree.ElementTree as ElementTree

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from benchmarks import scaling, scaling_plan, scaling_plot
from benchmarks.block import block_macs
from rstg_jax.errors import UserError

SVG = "{http://www.w3.org/2000/svg}"


def run(monkeypatch, *flags: str) -> None:
    """The command; JAX's cache of compiled functions is on again afterwards."""
    monkeypatch.setattr(sys, "argv", ["scaling", *flags])
    before = jax.config.jax_enable_compilation_cache
    try:
        scaling.main()
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()  # it remembers whether it was in use


def test_exponent_of_a_square():
    x = [1, 2, 3, 7]
    assert scaling.exponent(x, [5 * value**2 for value in x]) == pytest.approx(2)
    rows = [{"clips": n, "seconds": 3.0 * n, "temp_bytes": 7} for n in (1, 2, 8)]
    assert scaling.exponents("clips", rows) == pytest.approx({"seconds": 1, "temp_bytes": 0})


def test_laws_of_nodes_follow_edges_and_need_two_points():
    rows = [{"edges": n, "seconds": n**0.5, "temp_bytes": 0} for n in (0, 4, 16)]
    assert scaling.exponents("nodes", rows) == pytest.approx({"seconds": 0.5})
    assert scaling.exponents("nodes", rows[:2]) == {}


def test_one_factor_varies_and_the_paper_s_graph_is_the_base():
    plan = scaling_plan.FULL
    assert scaling_plan.BASE.size | {"frames": 16, "nodes": 14, "edges": 45} == (
        scaling_plan.BASE.size
    )
    for factor, points in plan.factors.items():
        sizes = [point.size for point in points]
        assert scaling_plan.BASE in points
        moving = {key for key in sizes[0] if len({size[key] for size in sizes}) > 1}
        assert moving == ({"nodes", "edges"} if factor == "nodes" else {factor})
        assert all(np.diff([size[factor] for size in sizes]) > 0)


@pytest.mark.slow
def test_quick_run_writes_what_it_measures(tmp_path, monkeypatch, capsys):
    figures_file, picture = tmp_path / "figures.json", tmp_path / "figures.svg"
    run(monkeypatch, "--quick", f"--json={figures_file}", f"--plot={picture}")
    figures = json.loads(figures_file.read_text())
    plan = scaling_plan.QUICK
    assert set(figures) == {"machine", *scaling_plan.PARTS}
    for factor, points in plan.factors.items():
        for point, row in zip(points, figures[factor]["rows"], strict=True):
            assert row["macs"] == block_macs(point.config, point.shape)
            speed = 6 * row["macs"] / row["seconds"] / 1e9
            assert row["share_of_peak"] == pytest.approx(speed / row["peak_gflops"])
            assert row["temp_bytes"] > 0 and row["compile_seconds"] > 0
    (stream,) = figures["stream"]["rows"]
    # Two time stages of one node with 4 features: memory and output of each, float32.
    assert stream["state_bytes"] == 2 * 2 * 4 * 4
    for row in figures["schedules"]["rows"]:
        times = row["seconds"]
        assert row["stage_to_wavefront"] == pytest.approx(times["stage"] / times["wavefront"])
    assert [row["values"] for row in figures["compile"]["rows"]] == [[2, 4]] * 2
    root = ElementTree.parse(picture).getroot()
    titles = [text.text for text in root.iter(f"{SVG}text") if " against " in (text.text or "")]
    assert len(titles) == len(scaling_plot.PANELS)
    printed = capsys.readouterr().out
    assert all(f"\n{part}\n" in printed for part in scaling_plan.PARTS)


def test_both_schedules_are_timed_on_the_same_function():
    """Gradients to weights and features of the programs themselves."""
    points = [scaling_plan.Point(3, (2, 1), 4, 2, 2, name) for name in scaling_plan.SCHEDULES]
    stage, wavefront = (scaling.program(point).run() for point in points)
    for one, other in zip(*map(jax.tree.leaves, (stage, wavefront)), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4)
        assert np.any(one) and np.shape(one) == np.shape(other)


def test_linear_figures_lie_on_the_drawn_law():
    rows = [{"frames": n, "seconds": n / 100, "temp_bytes": 1e9 * n} for n in (8, 16, 512)]
    for quantity, unit in (("seconds", 0.01), ("temp_bytes", 1)):
        measured, law = scaling_plot.curves("frames", quantity, rows)
        assert measured.steps == law.steps == [8, 16, 512]
        np.testing.assert_allclose(measured.values, law.values, rtol=1e-12)
        np.testing.assert_allclose(law.values, [8 * unit, 16 * unit, 512 * unit], rtol=1e-12)
    root = ElementTree.fromstring(scaling_plot.drawing({"frames": rows}))
    tooltips = [title.text for title in root.iter(f"{SVG}title")]
    assert tooltips[2:3] + tooltips[-1:] == [
        "measured, frames 512: 5.12",
        "measured, frames 512: 512",
    ]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--only=nothing",), "--only=nothing leaves none"),
        (("--only=stream", "--plot=x.svg"), "--only=stream leaves none"),
        (("--repeats=0",), "--repeats=0"),
    ],
)
def test_nothing_to_do_is_said_at_once(flags, said, monkeypatch):
    with pytest.raises(UserError, match=said):
        run(monkeypatch, *flags)
