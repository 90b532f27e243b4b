"""VideoPrism's encoder against numbers of transformers, weights read by its names."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rstg_jax.convert import torch as convert_torch
from rstg_jax.convert.torch_names import ARCHS
from rstg_jax.errors import UserError
from rstg_jax.models import classifier
from rstg_jax.models.backbones.videoprism import VideoPrismConfig
from rstg_jax.models.config import ModelConfig
from rstg_jax.models.heads import GlobalPooling
from rstg_jax.rstg import presets
from tests import zoo

SMALL = {
    "width": 48,
    "spatial_depth": 2,
    "temporal_depth": 2,
    "num_heads": 4,
    "mlp_dim": 96,
    "grid": (4, 3, 3),
    "logit_cap": 2.0,
}
MISTAKE = 1e-3


@functools.cache
def golden():
    return zoo.load("zoo_videoprism")


def features(weights, video, **fields):
    """Of one clip, `[t h w c]`."""
    found = ARCHS["videoprism_b_encoder"]
    found = dataclasses.replace(
        found, backbone=dataclasses.replace(found.backbone, **SMALL | fields)
    )
    params = convert_torch.convert(weights, found)["params"]["backbone"]
    module = found.backbone.build(jnp.float32, None)
    return np.asarray(jax.jit(module.apply)({"params": params}, video))[0]


def test_numbers_of_transformers():
    weights, video, wanted = zoo.weights(golden()), zoo.video(golden()), golden()["out/features"]
    deviation = zoo.deviation(features(weights, video), wanted)
    print(f"videoprism: {deviation:.2g}")
    assert deviation < 1e-5
    key = "temporal_layers.1.layernorm_after.weight"
    for name, wrong in {
        "cap": features(weights, video, logit_cap=50.0),
        "epsilon": features(weights, video, epsilon=1e-2),
        "input": features(weights, video, input_scale=127.5),
        "frames": features(weights, video[:, ::-1])[::-1],
        "rows": features(weights, video[:, :, ::-1])[:, ::-1],
        "gain": features(weights | {key: weights[key] - 1}, video),
    }.items():
        assert zoo.deviation(wrong, wanted) > MISTAKE, name


def test_every_tensor_is_accounted_for():
    weights = zoo.weights(golden())
    lost = {name: value for name, value in weights.items() if name != "layernorm2.bias"}
    with pytest.raises(UserError, match=r"missing layernorm2\.bias; unused more$"):
        features(lost | {"more": np.ones(1)}, zoo.video(golden()))


@pytest.mark.parametrize(("config", "millions"), [("b", 114), ("l", 354)])
def test_sizes(config, millions):
    """As published."""
    found = ARCHS[f"videoprism_{config}_encoder"]
    video = jax.ShapeDtypeStruct((1, 2, 36, 36, 3), jnp.uint8)
    shapes = jax.eval_shape(found.backbone.build(jnp.float32, None).init, jax.random.key(0), video)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6 == pytest.approx(
        millions, rel=5e-3
    )


def test_blocks_inside_change_nothing_at_first():
    backbone = VideoPrismConfig(
        width=16, spatial_depth=1, temporal_depth=1, num_heads=2, mlp_dim=16, patch=8
    )
    config = ModelConfig(
        backbone=backbone,
        rstg=presets.modern(dim=8, scales=(2, 1), stages=("space", "time")),
        rstg_at=("spatial0", "temporal0"),
        head=GlobalPooling(),
    )
    video = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 24, 3)).astype(np.uint8)
    module = classifier.build(config, 3)
    variables = jax.jit(module.init)(jax.random.key(0), video)
    logits, out = jax.jit(module.apply)(variables, video)
    assert out["features"].shape == (2, 3, 2, 3, 16)
    plain = classifier.build(dataclasses.replace(config, rstg_at=()), 3)
    params = {k: v for k, v in variables["params"].items() if not k.startswith("rstg")}
    np.testing.assert_array_equal(logits, jax.jit(plain.apply)({"params": params}, video)[0])


def test_bad_input():
    with pytest.raises(UserError, match="width=10 is no multiple of num_heads=4"):
        VideoPrismConfig(width=10, num_heads=4)
    with pytest.raises(UserError, match="patch and grid must be at least 1"):
        VideoPrismConfig(patch=0)
