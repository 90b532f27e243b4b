"""The head on the last feature map and its channels against plain loops, and in whole models."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import sync_mnist
from rstg_jax.errors import UserError
from rstg_jax.models import classifier, object_map
from rstg_jax.models.backbones.resnet3d import ResNet3DConfig
from rstg_jax.models.heads import GlobalPooling, RNNHead
from rstg_jax.training import losses
from rstg_jax.training.losses import LossConfig

ROWS, COLUMNS, CLASSES = 3, 4, 5


def test_head_starts_with_its_prior():
    head = object_map.ObjectMap(CLASSES)
    predicted, _ = head.init_with_output(jax.random.key(0), jnp.zeros((2, 3, ROWS, COLUMNS, 7)))
    assert predicted.shape == (2, 3, ROWS, COLUMNS, CLASSES, 3)
    np.testing.assert_allclose(jax.nn.sigmoid(predicted[..., 0]), object_map.PRIOR, rtol=1e-5)


def test_channels():
    predicted = np.random.default_rng(2).normal(size=(2, 3, ROWS, COLUMNS, CLASSES, 3))
    got = object_map.channels(jnp.asarray(predicted, jnp.float32))
    got = got.reshape(*predicted.shape[:4], CLASSES + 1, 3)
    got = got / np.array([object_map.PRESENCE_GAIN, *[object_map.PLACE_GAIN] * 2])
    np.testing.assert_allclose(got[..., -1, :], 2 * got[..., :-1, :].sum(-2), rtol=1e-4, atol=1e-5)
    for clip, frame, row, column, one in np.ndindex(predicted.shape[:-1]):
        logit, y, x = predicted[clip, frame, row, column, one]
        presence = 1 / (1 + np.exp(-logit))
        place = [2 * (row + (y + 1) / 2) / ROWS - 1, 2 * (column + (x + 1) / 2) / COLUMNS - 1]
        expected = [presence, *np.multiply(presence, place)]
        channels = got[clip, frame, row, column, one]
        np.testing.assert_allclose(channels, expected, rtol=1e-4, atol=1e-6)


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
        {"rstg_at": (), "head": RNNHead("mean", dim=8), "map_channels": True},
        {"rstg_at": (), "head": GlobalPooling(), "backbone": BACKBONE},
    ],
    ids=["rstg", "mean_lstm", "i3d"],
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


def test_channels_need_the_head():
    with pytest.raises(UserError, match="map_channels needs map_classes above 0"):
        dataclasses.replace(sync_mnist.tiny().model, map_channels=True)
