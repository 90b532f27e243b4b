"""The head on the last feature map and its channels against plain loops, and in whole models."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs import sync_mnist
from rstg_jax.data import object_maps
from rstg_jax.errors import UserError
from rstg_jax.models import classifier, object_map
from rstg_jax.models.backbones import CoordinatesConfig
from rstg_jax.models.backbones.resnet3d import ResNet3DConfig
from rstg_jax.models.heads import GlobalPooling, ResNet3DHead, RNNHead
from rstg_jax.rstg.block import RSTG, init_state, region_means
from rstg_jax.rstg.region_graph import RegionGraph
from rstg_jax.training import losses
from rstg_jax.training.losses import LossConfig

ROWS, COLUMNS, CLASSES = 3, 4, 5


def test_head_starts_with_its_prior():
    head = object_map.ObjectMap(CLASSES)
    predicted, _ = head.init_with_output(jax.random.key(0), jnp.zeros((2, 3, ROWS, COLUMNS, 7)))
    assert predicted.shape == (2, 3, ROWS, COLUMNS, CLASSES, 3)
    np.testing.assert_allclose(jax.nn.sigmoid(predicted[..., 0]), object_map.PRIOR, rtol=1e-5)


@pytest.mark.parametrize(
    ("for_means", "gains"),
    [
        (True, (object_map.PRESENCE_GAIN, object_map.PLACE_GAIN)),
        (False, (1, object_map.MEAN_PLACE_GAIN)),
    ],
)
def test_channels(for_means, gains):
    predicted = np.random.default_rng(2).normal(size=(2, 3, ROWS, COLUMNS, CLASSES, 3))
    got = object_map.channels(jnp.asarray(predicted, jnp.float32), for_means)
    got = got.reshape(*predicted.shape[:4], CLASSES + 1, 3)
    got = got / np.array([gains[0], *[gains[1]] * 2])
    np.testing.assert_allclose(got[..., -1, :], 2 * got[..., :-1, :].sum(-2), rtol=1e-4, atol=1e-5)
    for clip, frame, row, column, one in np.ndindex(predicted.shape[:-1]):
        logit, y, x = predicted[clip, frame, row, column, one]
        presence = 1 / (1 + np.exp(-logit))
        place = [2 * (row + (y + 1) / 2) / ROWS - 1, 2 * (column + (x + 1) / 2) / COLUMNS - 1]
        expected = [presence, *np.multiply(presence, place)]
        channels = got[clip, frame, row, column, one]
        np.testing.assert_allclose(channels, expected, rtol=1e-4, atol=1e-6)


def test_pooling_by_presence_is_a_loop_over_pixels():
    """Regions of whole pixels; of one class there is next to nothing."""
    rng = np.random.default_rng(4)
    predicted = rng.normal(size=(2, 3, 4, 4, CLASSES, 3))
    predicted[..., 0, 0] = -9
    graph = RegionGraph((2, 1), (4, 4))
    channels = object_map.channels(jnp.asarray(predicted, jnp.float32))
    got = object_map.pool_by_presence(channels, graph)
    got = got.reshape(5, 3, 2, CLASSES + 1, 3)
    regions = [(slice(y, y + 2), slice(x, x + 2)) for y in (0, 2) for x in (0, 2)]
    regions.append((slice(None), slice(None)))
    pixel = np.stack(np.meshgrid(np.arange(4), np.arange(4), indexing="ij"), -1)[..., None, :]
    presence = 1 / (1 + np.exp(-predicted[..., :1]))
    places = 2 * (pixel + (predicted[..., 1:] + 1) / 2) / 4 - 1
    for node, (rows, columns) in enumerate(regions):
        weights, values = presence[:, :, rows, columns], places[:, :, rows, columns]
        total, weighted = weights.sum((2, 3)), (weights * values).sum((2, 3))
        everything = [2 * x.sum(2, keepdims=True) for x in (total, weighted)]
        total, weighted = (
            np.concatenate(pair, 2) for pair in zip((total, weighted), everything, strict=True)
        )
        expected = np.concatenate([total, 4 * weighted / (total + 0.1)], -1)  # [b t classes 3]
        np.testing.assert_allclose(np.swapaxes(got[node], 0, 1), expected, rtol=1e-4, atol=1e-5)


def test_places_pooled_by_presence_do_not_move_when_an_object_fades():
    """Their mean over the area does."""
    predicted = np.zeros((1, 2, 4, 4, 1, 3), np.float32)
    predicted[..., 0] = -20
    predicted[0, :, 1, 0, 0] = [[9, 0.5, 0.5], [1, 0.5, 0.5]]  # logit and place in two frames
    channels, graph = object_map.channels(jnp.asarray(predicted)), RegionGraph((1,), (4, 4))
    step, moved = (
        np.abs(np.diff(np.asarray(pool(channels, graph))[0, :, 0], axis=0)[0, 1:3]).max()
        / np.abs(np.asarray(pool(channels, graph))[0, 0, 0, 1:3]).max()
        for pool in (object_map.pool_by_presence, region_means)
    )
    assert step < 0.05 < 0.2 < moved


def test_objects_are_a_loop_over_pixels():
    rng = np.random.default_rng(6)
    predicted = rng.normal(size=(2, 3, ROWS, COLUMNS, CLASSES, 3))
    predicted[..., 0] *= 3
    predicted[..., 0, 0] = -9
    found = object_map.find_objects(jnp.asarray(predicted, jnp.float32))
    vectors = object_map.of_objects(found)
    for clip, frame, one in np.ndindex(2, 3, CLASSES):
        total, where, presence = 0.0, np.zeros(2), 0.0
        for row, column in np.ndindex(ROWS, COLUMNS):
            logit, y, x = predicted[clip, frame, row, column, one]
            weight = np.exp(2 * logit)
            place = [2 * (row + (y + 1) / 2) / ROWS - 1, 2 * (column + (x + 1) / 2) / COLUMNS - 1]
            total, where = total + weight, where + weight * np.array(place)
            presence += 1 / (1 + np.exp(-logit))
        sure = total / (1 + total)
        where = where / (1 + total) / (sure + 0.05)
        expected = [sure, presence, *(4 * where), *np.eye(CLASSES)[one]]
        np.testing.assert_allclose(vectors[clip, frame, one], expected, rtol=1e-4, atol=1e-5)
        assert found.found[clip, frame, one] == vectors[clip, frame, one, 0]
    assert (found.found[:, :, 0] < 1e-4).all()
    np.testing.assert_allclose(found.places[:, :, 0], 0, atol=1e-4)


def test_objects_have_finite_gradients_where_they_are_sure():
    predicted = jnp.full((1, 1, 2, 2, 1, 3), 60.0).at[0, 0, 0, 0, 0, 0].set(-60)

    def total(x):
        return object_map.of_objects(object_map.find_objects(x)).sum()

    gradient = jax.grad(total)(predicted)
    assert np.isfinite(gradient).all()
    assert np.any(gradient != 0)


def test_objects_on_maps_are_where_they_were_drawn():
    """One of three is in no frame; places are units of 1/255 cell of 8x8."""
    places = np.random.default_rng(8).integers(0, 7 * 255, (2, 3, 2, 2))
    maps = object_maps.draw(np, places, np.array([2, 0]), 3, 8)
    features = CoordinatesConfig().build(jnp.float32, "backbone").apply({}, maps)
    found = object_map.given_objects(features)
    expected = np.zeros((2, 3, 3, 2))
    expected[:, :, [2, 0]] = 2 * places / (7 * 255) - 1
    np.testing.assert_allclose(found.places, expected, atol=0.01)
    np.testing.assert_allclose(found.found, np.broadcast_to([1, 0, 1], (2, 3, 3)), atol=0.01)


def test_a_model_on_given_objects():
    config = on_objects(backbone=CoordinatesConfig(), map_classes=0)
    module = classifier.build(config, 4)
    video = np.random.default_rng(7).integers(0, 256, (2, 4, 8, 8, 3), np.uint8)
    (_, out), variables = jax.jit(module.init_with_output)(jax.random.key(0), video)
    vectors = object_map.of_objects(object_map.given_objects(out["features"]))
    alone = RSTG(config.rstg).apply({"params": variables["params"]["rstg_final"]}, vectors)
    np.testing.assert_allclose(out["nodes"], alone.nodes, atol=1e-5)
    with pytest.raises(UserError, match=r"are not of 3 objects in each frame"):
        module.apply(variables, video[..., :2])


def on_objects(**choices):
    """The smallest model whose nodes are objects."""
    model = sync_mnist.tiny().model
    block = dataclasses.replace(model.rstg, scales=(), objects=3, neighbours="all")
    return dataclasses.replace(model, **{"rstg": block, "map_classes": 3} | choices)


def test_a_model_on_objects_reads_nothing_but_the_map():
    """Its block alone, with its weights, on vectors of the objects gives the same nodes."""
    config = on_objects()
    module = classifier.build(config, 4)
    video = np.random.default_rng(7).integers(0, 256, (2, 4, 16, 16, 1), np.uint8)
    (_, out), variables = jax.jit(module.init_with_output)(jax.random.key(0), video)
    vectors = object_map.of_objects(object_map.find_objects(out["object_map"]))
    block = {"params": variables["params"]["rstg_final"]}
    alone = RSTG(config.rstg).apply(block, vectors)
    np.testing.assert_allclose(out["nodes"], alone.nodes, atol=1e-5)
    np.testing.assert_allclose(out["attention"], alone.attention, atol=1e-6)
    np.testing.assert_array_equal(vectors[..., 2:4], 4 * out["objects"].places)
    state, frames = init_state(config.rstg, 2), []
    for t in range(4):
        (_, part), state = module.apply(variables, video[:, t : t + 1], state, method="stream")
        frames.append(part["frame_logits"])
    np.testing.assert_allclose(np.concatenate(frames, 1), out["frame_logits"], atol=1e-4)


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"map_classes": 4}, r"rstg\.objects=3 needs map_classes=3: it is 4"),
        ({"backbone": CoordinatesConfig()}, "needs no map_classes with CoordinatesConfig"),
        ({"rstg_at": ("conv0", "final")}, "rstg.objects needs a single block"),
        ({"rstg_at": ("conv0",), "head": GlobalPooling()}, "rstg.objects needs a single block"),
        ({"map_channels": True}, "set map_channels=false"),
        ({"lone_objects": True}, "are for regions, not rstg.objects"),
        ({"region_classes": 3}, "are for regions, not rstg.objects"),
    ],
)
def test_models_that_do_not_find_their_objects_are_refused(choices, sentence):
    with pytest.raises(UserError, match=sentence):
        on_objects(**choices)


BACKBONE = ResNet3DConfig(
    width=4,
    depths=(1, 1, 1, 1),
    statistics="batch",
    pool2=1,
    input_mean=(20.0,),
    input_scale=(60.0,),
)


@pytest.mark.parametrize(
    "parts",
    [
        {"map_channels": True},
        {"map_channels": True, "map_pool": "presence"},
        {"rstg_at": (), "head": RNNHead("mean", dim=8), "map_channels": True},
        {
            "rstg_at": (),
            "head": RNNHead("mean", dim=8, differences=True),
            "map_channels": True,
            "map_pool": "presence",
        },
        {"rstg_at": (), "head": GlobalPooling(), "backbone": BACKBONE},
    ],
    ids=["rstg", "rstg, by presence", "mean_lstm", "mean_lstm, by presence", "i3d"],
)
def test_every_kind_of_model_has_the_task(parts):
    """Its shapes fit, and the objective reads it; nothing is computed."""
    config = dataclasses.replace(sync_mnist.tiny().model, map_classes=3, **parts)
    module = classifier.build(config, 4)
    batch = {
        "label": np.zeros(2, np.int32),
        "mask": np.ones(2, np.float32),
        "object_class": np.array([[0, 2], [1, 0]]),
        "object_center": np.full((2, 4, 2, 2), 0.3, np.float32),
    }

    def loss(video):
        keys = {name: jax.random.key(0) for name in ("params", "dropout")}
        (logits, out), variables = module.init_with_output(keys, video, train=True)
        assert "object_map" in variables["params"]
        return losses.objective(LossConfig(map_weight=1.0), logits, out, batch)[0]

    video = jax.ShapeDtypeStruct((2, 4, 32, 32, 1), np.uint8)
    assert jax.eval_shape(loss, video).shape == ()


@pytest.mark.parametrize(
    ("head", "for_means"),
    [(RNNHead("mean", dim=8), True), (RNNHead("conv", dim=8), False), (ResNet3DHead(1, 4), False)],
)
def test_heads_that_convolve_the_channels_read_others(head, for_means):
    without = {"rstg_at": (), "dropout_rate": 0.0, "map_classes": 3, "map_channels": True}
    model = dataclasses.replace(sync_mnist.tiny().model, head=head, **without)
    seen = []

    def read(call, args, kwargs, context):
        if context.module.name == "head" and context.method_name == "__call__":
            seen.append(args[0])
        return call(*args, **kwargs)

    def classify(video):
        with nn.intercept_methods(read):
            return classifier.build(model, 4).init_with_output(jax.random.key(0), video)[0][1]

    def gain(video):
        out = classify(video)
        wanted = object_map.channels(out["object_map"], for_means)
        return jnp.abs(seen.pop() - wanted).max(), jnp.abs(wanted).max()

    difference, largest = jax.jit(gain)(np.zeros((1, 2, 8, 8, 1), np.uint8))
    assert difference == 0 < largest


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (RNNHead("conv", dim=8), "RNNHead"),
        (ResNet3DHead(1, 4), "ResNet3DHead"),
        (GlobalPooling(), "GlobalPooling"),
    ],
)
def test_presence_needs_a_head_that_reads_means(head, name):
    parts = {"map_classes": 3, "map_channels": True, "map_pool": "presence"}
    model = dataclasses.replace(sync_mnist.tiny().model, **parts)
    model.check_pooling()
    dataclasses.replace(model, rstg_at=(), head=RNNHead("mean", dim=8)).check_pooling()
    other = dataclasses.replace(model, rstg_at=(), head=head)
    with pytest.raises(UserError, match=rf"map_pool': .* {name} does not read means"):
        other.check_pooling()
    dataclasses.replace(other, map_pool="area").check_pooling()


def test_channels_need_the_head():
    with pytest.raises(UserError, match="map_channels needs map_classes above 0"):
        dataclasses.replace(sync_mnist.tiny().model, map_channels=True)
    with pytest.raises(UserError, match="map_pool 'presence' needs map_channels"):
        dataclasses.replace(sync_mnist.tiny().model, map_pool="presence")
