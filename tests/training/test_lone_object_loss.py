"""The auxiliary task against a plain loop over clips, frames, regions and objects."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import sync_mnist
from rstg_jax.errors import UserError
from rstg_jax.models import classifier
from rstg_jax.models.heads import RNNHead
from rstg_jax.rstg.region_graph import RegionGraph
from rstg_jax.training import lone_object_loss, losses
from rstg_jax.training.losses import LossConfig

BOXES = RegionGraph((2, 1)).boxes
CLIPS, FRAMES, OBJECTS = 3, 4, 3
PAIRED = np.array([[1, 1, 0], [0, 0, 0], [1, 1, 0]], bool)


def centers() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.01, 0.99, (CLIPS, FRAMES, OBJECTS, 2))


def looped() -> tuple[np.ndarray, np.ndarray]:
    """Which regions hold one object, and its pair flag and motion."""
    lone = np.zeros((CLIPS, FRAMES, len(BOXES)), bool)
    target = np.zeros((CLIPS, FRAMES, len(BOXES), 3))
    for clip, frame, region in np.ndindex(lone.shape):
        top, left, bottom, right = BOXES[region]
        places = centers()[clip, frame]
        held = [i for i, (y, x) in enumerate(places) if top <= y < bottom and left <= x < right]
        if len(held) == 1:
            lone[clip, frame, region] = True
            before = centers()[clip, max(frame - 1, 0), held[0]]
            motion = 16 * (places[held[0]] - before)
            target[clip, frame, region] = [PAIRED[clip, held[0]], *motion]
    return lone, target


def from_arrays() -> tuple[jax.Array, jax.Array]:
    objects = (jnp.asarray(centers(), jnp.float32), jnp.asarray(PAIRED))
    return lone_object_loss.targets(jnp.asarray(BOXES), *objects)


def test_targets():
    lone, target = looped()
    got_lone, got = from_arrays()
    np.testing.assert_array_equal(got_lone, lone)
    np.testing.assert_allclose(got * lone[..., None], target, atol=1e-4)
    assert 0 < lone.mean() < 1
    assert not lone[..., -1].any()  # the whole frame holds all objects


def test_loss():
    lone, target = looped()
    predicted = np.random.default_rng(1).normal(size=target.shape)
    got = lone_object_loss.loss(jnp.asarray(predicted, jnp.float32), *from_arrays())
    for clip in range(CLIPS):
        squares, entropies = [], []
        for frame, region in zip(*np.nonzero(lone[clip]), strict=True):
            logit, *motion = predicted[clip, frame, region]
            paired, *wanted = target[clip, frame, region]
            if frame >= 1:
                squares.append(np.square(np.subtract(motion, wanted)).sum())
            if frame >= 2:
                p = 1 / (1 + np.exp(-logit))
                entropies.append(-np.log(p if paired else 1 - p))
        np.testing.assert_allclose(got[clip], np.mean(squares) + np.mean(entropies), rtol=1e-5)


def test_other_partners_change_the_loss():
    predicted = jnp.ones((CLIPS, FRAMES, len(BOXES), 3))
    lone, target = from_arrays()
    one = lone_object_loss.loss(predicted, lone, target)
    other = lone_object_loss.loss(predicted, lone, target.at[..., 0].set(1 - target[..., 0]))
    assert (abs(one - other) > 1e-3).all()


def test_without_a_lone_object_the_loss_is_zero():
    predicted = jnp.full((1, FRAMES, 1, 3), jnp.nan)
    lone = jnp.zeros((1, FRAMES, 1), bool)
    assert lone_object_loss.loss(predicted, lone, jnp.ones_like(predicted)) == 0


@pytest.mark.parametrize(
    ("parts", "regions"),
    [({}, 14), ({"rstg_at": (), "head": RNNHead("mean", dim=8)}, 1)],
    ids=["regions", "whole frame"],
)
def test_objective_adds_the_weighted_task(parts, regions):
    """In a model without blocks, too: the frame's vector is asked, as the only region."""
    config = sync_mnist.tiny().model
    config = dataclasses.replace(config, region_classes=3, lone_objects=True, **parts)
    module = classifier.build(config, 4)
    video = np.random.default_rng(2).integers(0, 256, (CLIPS, FRAMES, 16, 16, 1), np.uint8)
    (logits, out), variables = jax.jit(module.init_with_output)(jax.random.key(0), video)
    assert out["boxes"].shape == (regions, 4)
    assert out["regions"].shape == (CLIPS, FRAMES, regions, 15)
    kernel, bias = (variables["params"]["lone_objects"][name] for name in ("kernel", "bias"))
    read = out["nodes"] if regions > 1 else None
    if read is not None:
        np.testing.assert_allclose(out["lone_objects"], read @ kernel + bias, rtol=1e-4, atol=1e-5)
    batch = {
        "label": jnp.zeros(CLIPS, int),
        "mask": jnp.ones(CLIPS),
        "object_class": jnp.asarray([[0, 1, 2]] * CLIPS),
        "object_center": jnp.asarray(centers(), jnp.float32),
        "object_in_pair": jnp.asarray(PAIRED),
    }
    plain, _ = losses.objective(LossConfig(), logits, out, batch)
    got, _ = losses.objective(LossConfig(lone_weight=0.5), logits, out, batch)
    lone = lone_object_loss.targets(out["boxes"], batch["object_center"], batch["object_in_pair"])
    expected = 0.5 * lone_object_loss.loss(out["lone_objects"], *lone).mean()
    np.testing.assert_allclose(got - plain, expected, rtol=1e-4, atol=1e-6)


def test_the_model_must_have_the_head():
    with pytest.raises(UserError, match=r"model\.lone_objects must be true"):
        dataclasses.replace(sync_mnist.tiny(), loss=LossConfig(lone_weight=1.0))
