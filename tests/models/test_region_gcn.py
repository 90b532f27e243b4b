"""The graphs against loops, and all of the joint GCN written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rstg_jax.errors import UserError
from rstg_jax.layers.roi_align import roi_align
from rstg_jax.models.heads import RegionGCNHead, region_gcn
from rstg_jax.rstg.region_graph import RegionGraph

RNG = np.random.default_rng(0)


def overlap(a, b):
    """Intersection over union of two boxes."""
    sides = [max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in range(2)]
    both = sides[0] * sides[1]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return both / (sum(areas) - both)


def random_boxes(*shape):
    corners = np.sort(RNG.uniform(0, 1, (*shape, 2, 2)), axis=-2)
    return corners.reshape(*shape, 4).astype(np.float32)


def whole_graphs(boxes):
    """Forward and backward graphs of one clip over all its nodes, by loops, `[t*n t*n]`."""
    t, n = boxes.shape[:2]
    forward = np.zeros((t * n, t * n))
    for frame in range(t - 1):
        for i in range(n):
            for j in range(n):
                a, b = boxes[frame, i], boxes[frame + 1, j]
                forward[frame * n + i, (frame + 1) * n + j] = overlap(a, b)

    def rows(graph):
        return graph / np.maximum(graph.sum(1, keepdims=True), 1e-12)

    return rows(forward), rows(forward.T)


def layer_norm(x, weights):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return np.maximum(x * weights["scale"] + weights["bias"], 0)


def written_out(params, features, boxes, layers, backwards=False):
    """The vector of one clip with graphs over all nodes, in float64."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    kernel = {name: layer.get("kernel") for name, layer in params.items()}
    x = features @ kernel["reduce"] + params["reduce"]["bias"]
    sides = np.tile(x.shape[1:3], 2)
    with jax.disable_jit():
        cells = roi_align(x.astype(np.float32), boxes * sides)
    start = np.asarray(cells).max((2, 3)).reshape(-1, x.shape[-1])
    logits = (start @ kernel["query"]) @ (start @ kernel["key"]).T
    graph = np.exp(logits - logits.max(1, keepdims=True))
    graph /= graph.sum(1, keepdims=True)
    forward, backward = whole_graphs(boxes)[:: -1 if backwards else 1]
    similar = near = start
    for i in range(layers):
        out = graph @ similar @ kernel[f"similarity{i}"]
        similar = layer_norm(out, params[f"similarity{i}_norm"])
        out = forward @ near @ kernel[f"forward{i}"] + backward @ near @ kernel[f"backward{i}"]
        near = layer_norm(out, params[f"overlap{i}_norm"])
    return np.concatenate([(similar + near).mean(0), x.mean((0, 1, 2))])


def drawn(module, *inputs):
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))
    return jax.tree.map(
        lambda leaf: (
            RNG.normal(size=leaf.shape) / np.sqrt(leaf.shape[0])
            if leaf.ndim > 1
            else RNG.uniform(0.5, 1.5, leaf.shape)
        ).astype(np.float32),
        shapes,
    )


def test_joint_gcn():
    features = RNG.normal(size=(2, 3, 6, 5, 4)).astype(np.float32)
    boxes = random_boxes(2, 3, 4)
    module = RegionGCNHead(dim=6, layers=2).build("head")
    variables = drawn(module, features, boxes)
    found = jax.jit(module.apply)(variables, features, boxes)
    assert found.shape == (2, 1, 12)
    for clip in range(2):
        parts = (variables["params"], features[clip], boxes[clip], 2)
        wanted = written_out(*parts)
        size = np.abs(wanted).max()
        deviation = np.abs(found[clip, 0] - wanted).max() / size
        print(f"joint GCN: {deviation:.2g}")
        assert deviation < 1e-5
        assert np.abs(found[clip, 0] - written_out(*parts, backwards=True)).max() > 0.01 * size

    order = RNG.permutation(4)
    again = jax.jit(module.apply)(variables, features, boxes[:, :, order])
    np.testing.assert_allclose(again, found, atol=1e-5 * np.abs(found).max())


def test_regions_of_the_grids():
    """Without boxes they are those of RSTG."""
    features = RNG.normal(size=(1, 2, 4, 4, 3)).astype(np.float32)
    module = RegionGCNHead(scales=(2, 1), dim=4, layers=1).build(None)
    boxes = np.broadcast_to(RegionGraph((2, 1)).boxes, (1, 2, 5, 4)).astype(np.float32)
    variables = drawn(module, features)
    found = jax.jit(module.apply)(variables, features)[0, 0]
    wanted = written_out(variables["params"], features[0], boxes[0], 1)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_boxes_without_overlap_get_no_message():
    boxes = jnp.asarray(
        [[[[0, 0, 0.5, 0.5], [0, 0, 0, 0]], [[0.5, 0.5, 1, 1], [0.2, 0.2, 0.7, 1]]]]
    )
    forward, backward = region_gcn.overlap_graphs(boxes)
    np.testing.assert_array_equal(forward[0, 0], [[0, 1], [0, 0]])
    np.testing.assert_array_equal(backward[0, 0], [[0, 0], [1, 0]])


def test_bad_input():
    with pytest.raises(UserError, match="dim and layers of at least 1"):
        RegionGCNHead(layers=0)
    with pytest.raises(UserError, match="scales is empty"):
        RegionGCNHead(scales=())


def test_boxes_without_area_have_no_effect():
    """Neither on the vector, of which the real boxes alone give the same, nor on its gradients."""
    features = RNG.normal(size=(2, 3, 6, 5, 4)).astype(np.float32)
    real = random_boxes(2, 3, 3)
    places = RNG.permutation(7)[:3]
    padded = RNG.uniform(0, 1, (2, 3, 7, 1)).repeat(4, -1).astype(np.float32)  # points anywhere
    padded[..., 0, :] = 0
    padded[:, :, places] = real
    module = RegionGCNHead(regions="boxes", dim=6, layers=2).build(None)
    variables = drawn(module, features)

    @jax.jit
    def run(boxes):
        def total(variables, features):
            vectors = module.apply(variables, features, boxes)
            return (vectors * jnp.arange(1.0, 13)).sum(), vectors

        return jax.grad(total, argnums=(0, 1), has_aux=True)(variables, features)

    gradients, found = run(padded)
    for clip in range(2):
        wanted = written_out(variables["params"], features[clip], real[clip], 2)
        np.testing.assert_allclose(found[clip, 0], wanted, atol=1e-5 * np.abs(wanted).max())
    alone, _ = run(real)
    for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())
    # With an area they count.
    wide = np.where((np.arange(7) == places[0] - 1)[:, None], np.float32([0, 0, 0.5, 0.5]), padded)
    others = [run(wide)[1], run(padded[..., ::-1])[1]]
    assert min(np.abs(other - found).max() for other in others) > 1e-2 * np.abs(found).max()

    nothing, empty = run(np.zeros((2, 3, 7, 4), np.float32))
    assert not empty[..., :6].any() and empty[..., 6:].all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(nothing))


def test_boxes_are_those_of_the_frames_of_the_map():
    """Of two frames the first, of four the second."""
    boxes = np.arange(8)[None, :, None, None] * np.ones((1, 8, 2, 4))
    assert region_gcn.of_map(boxes, 4)[0, :, 0, 0].tolist() == [0, 2, 4, 6]
    assert region_gcn.of_map(boxes, 2)[0, :, 0, 0].tolist() == [1, 5]
    assert region_gcn.of_map(boxes, 8).shape == (1, 8, 2, 4)
    with pytest.raises(UserError, match="boxes of 8 frames do not fit a feature map of 3 frames"):
        region_gcn.of_map(boxes, 3)


def test_a_head_of_boxes_needs_boxes():
    features = jnp.ones((1, 2, 4, 4, 3))
    module = RegionGCNHead(regions="boxes", dim=4, layers=1).build(None)
    variables = module.init(jax.random.key(0), features)
    with pytest.raises(UserError, match="this network reads boxes of objects"):
        module.apply(variables, features)
