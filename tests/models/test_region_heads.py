"""Heads of the auxiliary tasks on the nodes after the first time stage, against plain NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import sync_mnist
from rstg_jax.errors import UserError
from rstg_jax.models import classifier
from rstg_jax.models.config import FINAL, ModelConfig
from rstg_jax.models.heads import RNNHead
from rstg_jax.rstg import RSTG, init_state, presets
from rstg_jax.training import lone_object_loss, losses, region_loss
from rstg_jax.training.losses import LossConfig

CLASSES, CLIPS, FRAMES = 3, 2, 4
RNG = np.random.default_rng(0)
VIDEO = RNG.integers(0, 256, (CLIPS, FRAMES, 16, 16, 1), np.uint8)
BATCH = {
    "label": jnp.zeros(CLIPS, int),
    "mask": jnp.ones(CLIPS),
    "object_class": jnp.array([[0, 2], [1, 0]]),
    "object_center": jnp.asarray(RNG.uniform(0.01, 0.99, (CLIPS, FRAMES, 2, 2)), jnp.float32),
    "object_in_pair": jnp.array([[True, True], [False, False]]),
}


def config(**choices) -> ModelConfig:
    block = presets.modern(iterations=1, dim=8, scales=(2, 1))
    fields = {"rstg": block, "region_classes": CLASSES, "lone_objects": True, "early_heads": True}
    return dataclasses.replace(sync_mnist.tiny().model, **fields | choices)


@pytest.fixture(scope="module")
def model():
    """The module, its weights, and what they make of the video."""
    module = classifier.build(config(), 4)
    out, variables = jax.jit(module.init_with_output)(jax.random.key(0), VIDEO)
    return module, variables["params"], *out


def test_they_read_the_nodes_after_the_first_time_stage(model):
    module, params, _, out = model

    block = RSTG(module.config.rstg)
    weights = {"params": params[classifier.block_name(FINAL)]}
    early = block.apply(weights, out["features"], method="with_early_nodes")[1]
    early = np.asarray(early, np.float64)
    normed = (early - early.mean(-1, keepdims=True)) / early.std(-1, keepdims=True)

    def read(nodes, name):
        return nodes @ params[name]["kernel"] + params[name]["bias"]

    np.testing.assert_allclose(out["early_motion"], read(normed, "early_motion"), atol=1e-4)
    assert np.abs(out["early_motion"] - read(out["nodes"], "early_motion")).max() > 0.1
    by_scale = [read(normed[:, :, :4], "early_regions0"), read(normed[:, :, 4:], "early_regions1")]
    np.testing.assert_allclose(out["early_regions"], np.concatenate(by_scale, axis=2), atol=1e-4)


def test_the_objective_adds_their_tasks(model):
    _, _, logits, out = model
    tasks = LossConfig(region_weight=0.3, lone_weight=0.5)
    final = {name: value for name, value in out.items() if not name.startswith("early")}
    added = losses.objective(tasks, logits, out, BATCH)[0]
    added -= losses.objective(tasks, logits, final, BATCH)[0]

    places = BATCH["object_center"]
    target = region_loss.targets(out["boxes"], BATCH["object_class"], places, CLASSES)
    regions = region_loss.loss(out["early_regions"], target)
    moved = 16 * np.diff(places, axis=1)  # of objects, [b t-1 o y x]
    motion = np.zeros(CLIPS)
    for clip in range(CLIPS):
        squares = []
        for frame, region in np.ndindex(FRAMES, 5):
            top, left, bottom, right = out["boxes"][region]
            held = [
                number
                for number, (y, x) in enumerate(places[clip, frame])
                if top <= y < bottom and left <= x < right
            ]
            if frame and len(held) == 1:
                wrong = out["early_motion"][clip, frame, region] - moved[clip, frame - 1, held[0]]
                squares.append(np.square(wrong).sum())
        motion[clip] = np.mean(squares)
    np.testing.assert_allclose(added, (0.3 * regions + 0.5 * motion).mean(), rtol=1e-4)
    lone = lone_object_loss.targets(out["boxes"], places, BATCH["object_in_pair"])
    whole = lone_object_loss.loss(out["lone_objects"], *lone)  # also asks who is in the pair
    assert np.abs(whole - lone_object_loss.motion_loss(out["early_motion"], *lone)).min() > 0.1


def test_a_stream_does_without_them(model):
    module, params, _, out = model
    state = init_state(module.config.rstg, CLIPS)
    (_, streamed), _ = jax.jit(lambda *inputs: module.apply(*inputs, method="stream"))(
        {"params": params}, VIDEO, state
    )
    assert set(out) - set(streamed) == {"early_regions", "early_motion"}
    np.testing.assert_allclose(streamed["regions"], out["regions"], atol=1e-5)


@pytest.mark.parametrize(
    "choices",
    [
        {"rstg": presets.modern(stages=("space", "time"))},
        {"rstg": presets.modern(stages=("space", "space"))},
        {"rstg_at": (), "head": RNNHead("mean", dim=8)},
    ],
    ids=["no stage after it", "no time stage", "no block"],
)
def test_some_models_cannot_have_them(choices):
    with pytest.raises(UserError, match="early_heads needs a block whose nodes the head reads"):
        config(**choices)


def test_they_need_a_task():
    with pytest.raises(UserError, match="early_heads has no task"):
        config(region_classes=0, lone_objects=False)
