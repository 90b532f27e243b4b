import io

import numpy as np
import pytest
from PIL import Image

from rstg_jax.rstg.region_graph import ObjectGraph, RegionGraph
from rstg_jax.viz import draw_graph, panels, video_writer

GRAPH = RegionGraph((3, 2, 1))
NAMES = ["0-1", "0-2", "1-2"]


def attention_of(edges: dict[tuple[int, int], float], base: float = 0.01) -> np.ndarray:
    """Weights `[i j]` of the graph's edges, `base` but where `edges` says otherwise."""
    weights = np.where(GRAPH.adjacency, base, 0.0)
    for (destination, source), weight in edges.items():
        weights[destination, source] = weight
    return weights


def example(frames: int = 5, label: int = 0, attention: bool = True) -> panels.Example:
    rng = np.random.default_rng(label)
    weights = rng.random((frames, 14, 14)) * GRAPH.adjacency
    return panels.Example(
        video=rng.integers(0, 255, (frames, 16, 16, 1), dtype=np.uint8),
        labels=(label,),
        probabilities=np.array([0.7, 0.2, 0.1]),
        attention=weights / weights.sum(-1, keepdims=True) if attention else None,
        pair_boxes=np.tile([[0.1, 0.2, 0.4, 0.5], [0.5, 0.5, 0.9, 0.9]], (frames, 1, 1)),
    )


def test_strongest_edges_are_the_greatest_weights_in_order():
    rng = np.random.default_rng(0)
    attention = rng.random((14, 14))
    found = draw_graph.strongest_edges(attention, GRAPH.adjacency, 9)
    # Independently: sort all 90 directed edges of the graph.
    every = sorted(
        (
            (attention[i, j] * sum(GRAPH.adjacency[i]), i, j)
            for i in range(14)
            for j in range(14)
            if GRAPH.adjacency[i, j]
        ),
        reverse=True,
    )
    assert len(every) == 90
    assert [(e.weight, e.receiver, e.sender) for e in found] == every[:9]


def test_strongest_edges_leaves_out_pairs_that_are_no_neighbours():
    attention = np.zeros((14, 14))
    attention[0, 0] = attention[0, 8] = 1.0  # itself, and the opposite corner
    attention[0, 1] = 0.25  # an even share: a corner has four neighbours
    found = draw_graph.strongest_edges(attention, GRAPH.adjacency, 1)
    assert found == [draw_graph.Edge(receiver=0, sender=1, weight=1.0)]


def test_nodes_of_all_scales_are_drawn_apart():
    places = draw_graph.node_places(GRAPH)
    distances = np.hypot(*np.moveaxis(places[:, None] - places[None], -1, 0))
    assert distances[~np.eye(14, dtype=bool)].min() > 0.05
    np.testing.assert_allclose(places[:9], GRAPH.centers[:9])
    assert places.min() > 0 and places.max() < 1


def test_drawn_message_is_where_its_nodes_are_and_thickens_to_its_destination():
    side = 300
    black = Image.new("RGB", (side, side))
    one = attention_of({(1, 0): 1.0})  # from the top left corner to the top middle
    picture = np.asarray(draw_graph.draw_attention(black, one, GRAPH, edges=1)).astype(int)
    bare = np.asarray(draw_graph.draw_attention(black, one, GRAPH, edges=0)).astype(int)
    stroke = np.abs(picture - bare).sum(-1)  # [h w]
    rows, columns = np.nonzero(stroke)
    (y0, x0), (y1, x1) = GRAPH.centers[0] * side, GRAPH.centers[1] * side
    assert x0 <= columns.min() and columns.max() <= x1
    assert abs(rows.mean() - (y0 + y1) / 2) < 6
    quarter = (x1 - x0) / 4
    near_source = stroke[:, int(x0 + quarter)].sum()
    near_destination = stroke[:, int(x1 - quarter)].sum()
    assert near_destination > 1.5 * near_source > 0


def test_objects_are_drawn_where_they_are():
    """Three of four objects are there; the strongest message would come from the fourth."""
    side, graph = 300, ObjectGraph(4)
    found, places = np.ones((1, 4)), np.array([[[-0.5, -0.5], [-0.5, 0.5], [0.5, 0], [0, 0]]])
    found[0, 3] = 0.2
    objects = draw_graph.object_places(found, places)
    np.testing.assert_array_equal(np.isnan(objects[0, :, 0]), [False, False, False, True])
    attention = np.full((4, 4), 0.01)
    attention[1, 0], attention[1, 3] = 0.6, 0.9
    black = Image.new("RGB", (side, side))
    picture, bare = (
        np.asarray(draw_graph.draw_attention(black, attention, graph, edges=n, objects=objects[0]))
        for n in (1, 0)
    )
    for y, x in ((75, 75), (75, 225), (225, 150)):
        np.testing.assert_array_equal(bare[y, x], draw_graph.scale_color(0))
    assert not bare[150, 150].any()
    stroke = np.abs(picture.astype(int) - bare).sum(-1)
    rows, columns = np.nonzero(stroke)
    assert abs(rows.mean() - 75) < 6 and columns.min() >= 75 and columns.max() <= 225
    heated = draw_graph.graph_layer(
        (side, side), graph, None, activity=np.array([0, 0.375, 1, 1]), objects=objects[0]
    )
    assert heated.getpixel((225, 75)) == (*draw_graph.heat(0.375), 255)
    assert heated.getpixel((10, 10))[3] == 0  # no cells


def test_an_example_on_objects_is_drawn_with_them():
    rng = np.random.default_rng(1)
    fields = {
        "video": np.zeros((3, 16, 16, 1), np.uint8),
        "labels": (0,),
        "probabilities": np.array([0.7, 0.3]),
        "attention": rng.dirichlet(np.ones(2), (3, 2)),
    }
    graph = ObjectGraph(2)
    objects = np.array([[[0.25, 0.25], [0.25 + 0.25 * t, 0.75]] for t in range(3)])
    one = panels.Example(**fields, objects=objects)
    images = [np.asarray(image)[:, 244:] for image in panels.panels(one, graph, side=240)]
    for time, image in enumerate(images):
        np.testing.assert_array_equal(image[60, 60], draw_graph.scale_color(0))
        np.testing.assert_array_equal(image[60 + 60 * time, 180], draw_graph.scale_color(0))
    absent = panels.Example(**fields, objects=np.full_like(objects, np.nan))
    bare = np.asarray(panels.panels(absent, graph, side=240)[1])[:, 244:]
    assert not bare.any()


def test_opacity_grows_with_weight():
    black = Image.new("RGB", (200, 200))
    light = []
    for weight in (0.1, 0.3, 0.6):
        picture = draw_graph.draw_attention(black, attention_of({(1, 0): weight}), GRAPH, edges=1)
        # Beside the nodes there is the one stroke only.
        light.append(np.asarray(picture)[26:37, 66:84].max())
    assert light[0] < light[1] < light[2]
    shares = [6 * weight / draw_graph.FULL_WEIGHT for weight in (0.1, 0.3, 0.6)]  # 6 neighbours
    np.testing.assert_allclose(light, [255 * (0.18 + 0.82 * share) for share in shares], atol=4)


def test_boxes_are_drawn_at_their_fractions():
    picture = panels.draw_boxes(Image.new("RGB", (100, 100)), np.array([[0.2, 0.1, 0.5, 0.7]]))
    rows, columns = np.nonzero(np.asarray(picture).sum(-1))
    assert (rows.min(), columns.min(), rows.max(), columns.max()) == (20, 10, 49, 69)
    assert picture.getpixel((10, 30)) == panels.PAIR_COLOR
    assert picture.getpixel((40, 35)) == (0, 0, 0)


def test_draw_frame_keeps_shape_and_brightness():
    frame = np.full((8, 16, 1), 200, np.uint8)
    image = panels.draw_frame(frame, 40, dim=0.5)
    assert image.size == (80, 40)
    assert image.getpixel((40, 20)) == (100, 100, 100)
    color = panels.draw_frame(np.full((4, 4, 3), (10, 20, 30), np.uint8), 8)
    assert color.getpixel((4, 4)) == (10, 20, 30)


def test_a_map_of_classes_has_a_hue_for_each():
    frame = np.zeros((4, 4, 4), np.uint8)
    frame[:2, :, 0], frame[2:, :, 2] = 255, 128
    image = np.asarray(panels.draw_frame(frame, 4))
    np.testing.assert_array_equal(image[0, 0], [255, 0, 0])
    np.testing.assert_array_equal(image[3, 3], [0, 128, 128])


@pytest.mark.parametrize("kind", ["WEBP", "GIF"])
def test_animation_has_a_picture_for_every_frame(kind):
    frames = panels.panels(example(frames=5), GRAPH, side=48)
    assert {image.size for image in frames} == {(48 + 4 + 48, 48)}
    with Image.open(io.BytesIO(video_writer.encode_images(frames, kind))) as image:
        assert image.n_frames == 5
        assert image.info["loop"] == 0
        assert image.size == (100, 48)


def test_without_attention_the_video_stands_alone():
    with_graph = panels.panels(example(attention=False), GRAPH, side=48)
    without = panels.panels(example(), None, side=48)
    assert {image.size for image in with_graph + without} == {(48, 48)}


def test_strip_holds_all_examples():
    examples = [example(frames=8, label=n) for n in (0, 1)]
    sheet = panels.strip(examples, GRAPH, NAMES)
    assert sheet.size == (6 * (180 + 6) + 18, 2 * (180 + 46) + 12)
    colors = set(sheet.get_flattened_data())
    assert {panels.RIGHT_COLOR, panels.WRONG_COLOR} <= colors  # one right, one wrong
