"""The region graph against the official constants and plain loops."""

import numpy as np
import pytest

from rstg_jax.errors import UserError
from rstg_jax.rstg.region_graph import RegionGraph, area_weights
from tests.golden import load

CONSTANTS = load("A_constants")


def scales(count: int) -> tuple[int, ...]:
    return tuple(range(count, 0, -1))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("side", [64, 224, 256])
def test_boxes_and_edges_are_the_official_ones(side, count):
    graph = RegionGraph(scales(count), frame_size=(side, side))
    x0_x1_y0_y1 = graph.pixel_boxes[:, [1, 3, 0, 2]]
    np.testing.assert_array_equal(x0_x1_y0_y1, CONSTANTS[f"boxes/dim{side}_scales{count}"])
    np.testing.assert_array_equal(graph.adjacency, CONSTANTS[f"adj/dim{side}_scales{count}"])


def test_paper_graph_has_45_edges_and_the_known_degrees():
    degrees = RegionGraph().adjacency.sum(axis=1)
    assert degrees.tolist() == [4, 6, 4, 6, 9, 6, 4, 6, 4, 7, 7, 7, 7, 13]
    assert degrees.sum() == 2 * 45


def test_exact_cells_agree_with_a_loop_over_fractions():
    graph = RegionGraph((5, 3, 2))
    for i, (top, left, bottom, right) in enumerate(graph.boxes):
        for j, (top2, left2, bottom2, right2) in enumerate(graph.boxes):
            rows = min(bottom, bottom2) - max(top, top2)
            columns = min(right, right2) - max(left, left2)
            near = rows > -1e-9 and columns > -1e-9 and max(rows, columns) > 1e-9
            assert graph.adjacency[i, j] == (near and i != j), (i, j)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_position_maps_are_the_official_ones(count):
    expected = CONSTANTS[f"posmap/dim6_scales{count}"]
    np.testing.assert_allclose(RegionGraph(scales(count)).position_maps, expected, atol=1e-6)


@pytest.mark.stack
def test_area_weights_are_the_official_filters():
    names = [name for name in CONSTANTS if name.startswith("filter/")]
    assert len(names) == 56
    for name in names:
        size_in, size_out = (int(part.split("x")[0]) for part in name[7:].split("_to_"))
        weights = area_weights(size_in, size_out)
        both_axes = np.einsum("ih,jw->ijhw", weights, weights)
        np.testing.assert_allclose(both_axes, CONSTANTS[name], atol=1e-6, err_msg=name)


def test_pooling_a_non_square_map_is_the_mean_over_each_box():
    height, width = 12, 18  # divisible by every scale: no fractional pixels
    graph = RegionGraph((3, 2, 1), (height, width))
    values = np.random.default_rng(0).normal(size=(height, width))
    for node, (top, left, bottom, right) in enumerate(graph.boxes):
        rows = slice(round(top * height), round(bottom * height))
        columns = slice(round(left * width), round(right * width))
        pooled = np.sum(graph.pool[node] * values)
        np.testing.assert_allclose(pooled, values[rows, columns].mean(), rtol=1e-5)


def test_every_weight_sums_to_one():
    graph = RegionGraph((4, 3, 2, 1), (14, 23))
    np.testing.assert_allclose(graph.pool.sum(axis=(1, 2)), 1, atol=5e-6)
    for where in graph.scale_slices:
        np.testing.assert_allclose(graph.unpool[..., where].sum(axis=-1), 1, atol=5e-6)


def test_impossible_graphs_are_refused():
    with pytest.raises(UserError, match="scales is empty"):
        RegionGraph(())
    with pytest.raises(UserError, match="at least 1"):
        RegionGraph((3, 0))
    with pytest.raises(UserError, match="must be positive"):
        RegionGraph(map_size=(0, 6))
