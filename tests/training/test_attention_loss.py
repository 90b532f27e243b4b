"""The auxiliary task on attention against a plain loop over clips, frames and pairs of regions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import sync_mnist
from rstg_jax.errors import UserError
from rstg_jax.models import classifier
from rstg_jax.rstg import presets
from rstg_jax.rstg.region_graph import RegionGraph
from rstg_jax.training import attention_loss, losses
from rstg_jax.training.losses import LossConfig

BOXES = RegionGraph((3, 2, 1)).boxes
CLIPS, FRAMES, OBJECTS, STAGES = 4, 5, 3, 2
PAIRED = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 1], [1, 1, 0]], bool)
RNG = np.random.default_rng(0)
CENTERS = RNG.uniform(0.01, 0.99, (CLIPS, FRAMES, OBJECTS, 2))
CENTERS[3] = 0.4  # all in one region: nothing is asked
ATTENTION = RNG.dirichlet(np.ones(len(BOXES)), (STAGES, CLIPS, FRAMES, len(BOXES)))


def looped() -> np.ndarray:
    """Which regions hold one object each, which are the two of the pair."""
    partner = np.zeros((CLIPS, FRAMES, len(BOXES), len(BOXES)), bool)
    for clip, frame in np.ndindex(CLIPS, FRAMES):
        holds = []
        for top, left, bottom, right in BOXES:
            places = CENTERS[clip, frame]
            held = [k for k, (y, x) in enumerate(places) if top <= y < bottom and left <= x < right]
            holds.append(held[0] if len(held) == 1 else None)
        pair = set(np.flatnonzero(PAIRED[clip]))
        for i, j in np.ndindex(partner.shape[2:]):
            partner[clip, frame, i, j] = len(pair) == 2 and {holds[i], holds[j]} == pair
    return partner


def partners() -> jax.Array:
    objects = (jnp.asarray(CENTERS, jnp.float32), jnp.asarray(PAIRED))
    return attention_loss.partners(jnp.asarray(BOXES), *objects)


def test_partners():
    expected = looped()
    np.testing.assert_array_equal(partners(), expected)
    assert expected[0].any()
    assert not expected[[1, 3]].any()


def test_partners_among_objects():
    """Nodes are the object classes, some of them in no clip."""
    classes = np.array([[4, 0, 2], [1, 2, 3], [3, 0, 1], [0, 1, 2]])
    got = attention_loss.object_partners(5, jnp.asarray(classes), jnp.asarray(PAIRED), FRAMES)
    expected = np.zeros((CLIPS, FRAMES, 5, 5), bool)
    for clip in range(CLIPS):
        pair = classes[clip][PAIRED[clip]]
        if len(pair):
            first, second = pair
            expected[clip, :, [first, second], [second, first]] = True
    np.testing.assert_array_equal(got, expected)
    assert expected.sum() == 3 * FRAMES * 2


def test_loss():
    partner = looped()
    got = attention_loss.loss(jnp.asarray(ATTENTION, jnp.float32), partners())
    for clip in range(CLIPS):
        terms = [
            -np.log(ATTENTION[stage, clip, frame, i][partner[clip, frame, i]].sum())
            for stage, frame, i in np.ndindex(STAGES, FRAMES, len(BOXES))
            if partner[clip, frame, i].any()
        ]
        np.testing.assert_allclose(got[clip], np.mean(terms or [0]), rtol=1e-3)


def test_attention_to_the_partners_is_best_and_to_others_costs():
    partner = looped()
    ideal = partner / np.maximum(partner.sum(-1, keepdims=True), 1)
    others = (1 - partner) / np.maximum((1 - partner).sum(-1, keepdims=True), 1)
    best, worst = (
        attention_loss.loss(jnp.asarray(attention[None], jnp.float32), partners())
        for attention in (ideal, others)
    )
    np.testing.assert_allclose(best, 0, atol=1e-5)
    assert (np.asarray(worst)[[0, 2]] > 10).all()


def test_its_gradient_is_finite_where_no_attention_is_paid():
    attention = jnp.zeros((STAGES, CLIPS, FRAMES, len(BOXES), len(BOXES)))
    gradient = jax.grad(lambda x: attention_loss.loss(x, partners()).sum())(attention)
    assert np.isfinite(gradient).all()
    assert np.any(gradient != 0)


def test_objective_adds_the_weighted_task():
    config = dataclasses.replace(sync_mnist.tiny().model, lone_objects=True)
    module = classifier.build(config, 4)
    video = np.random.default_rng(2).integers(0, 256, (CLIPS, FRAMES, 16, 16, 1), np.uint8)
    (logits, out), _ = jax.jit(module.init_with_output)(jax.random.key(0), video)
    batch = {
        "label": jnp.zeros(CLIPS, int),
        "mask": jnp.ones(CLIPS),
        "object_center": jnp.asarray(CENTERS, jnp.float32),
        "object_in_pair": jnp.asarray(PAIRED),
    }
    plain, _ = losses.objective(LossConfig(), logits, out, batch)
    got, _ = losses.objective(LossConfig(attention_weight=0.5), logits, out, batch)
    expected = 0.5 * attention_loss.loss(out["attention"][:, :, 1:], partners()[:, 1:]).mean()
    assert expected > 0.1
    np.testing.assert_allclose(got - plain, expected, rtol=1e-4, atol=1e-6)


def test_objective_asks_nodes_that_are_objects():
    tiny = sync_mnist.tiny().model
    block = dataclasses.replace(tiny.rstg, scales=(), objects=3, neighbours="all")
    config = dataclasses.replace(tiny, rstg=block, map_classes=3)
    module = classifier.build(config, 4)
    video = np.random.default_rng(2).integers(0, 256, (CLIPS, FRAMES, 16, 16, 1), np.uint8)
    (logits, out), _ = jax.jit(module.init_with_output)(jax.random.key(0), video)
    classes = np.array([[0, 1, 2], [2, 1, 0], [1, 0, 2], [2, 0, 1]])
    batch = {
        "label": jnp.zeros(CLIPS, int),
        "mask": jnp.ones(CLIPS),
        "object_class": jnp.asarray(classes),
        "object_in_pair": jnp.asarray(PAIRED),
    }
    plain, _ = losses.objective(LossConfig(), logits, out, batch)
    config = LossConfig(attention_weight=0.5, attention_start=2)
    got, _ = losses.objective(config, logits, out, batch)
    with pytest.raises(UserError, match=r"attention_start=5 leaves none of the 5 frames"):
        losses.check_starts(LossConfig(attention_weight=0.5, attention_start=5), out)
    attention, terms = np.asarray(out["attention"]), np.zeros(CLIPS)
    for clip in (0, 2, 3):
        i, j = classes[clip][PAIRED[clip]]
        paid = attention[:, clip, 2:, [i, j], [j, i]]
        terms[clip] = -np.log(paid).mean()
    assert terms.mean() > 0.1
    np.testing.assert_allclose(got - plain, 0.5 * terms.mean(), rtol=1e-4, atol=1e-6)


def test_nodes_must_be_the_objects_of_the_data():
    tiny = sync_mnist.tiny()  # of three classes
    block = dataclasses.replace(tiny.model.rstg, scales=(), objects=4, neighbours="all")
    model = dataclasses.replace(tiny.model, rstg=block, map_classes=4)
    with pytest.raises(UserError, match=r"model\.rstg\.objects=4 must be 3, the number of object"):
        dataclasses.replace(tiny, model=model, loss=LossConfig(attention_weight=1.0))


@pytest.mark.parametrize(
    "choices",
    [{}, {"lone_objects": True, "rstg": presets.modern(stages=("time",))}],
    ids=["no regions", "no attention"],
)
def test_the_model_must_have_regions_and_attention(choices):
    experiment = sync_mnist.tiny()
    model = dataclasses.replace(experiment.model, **choices)
    with pytest.raises(UserError, match="attention_weight above 0 needs a model"):
        dataclasses.replace(experiment, model=model, loss=LossConfig(attention_weight=1.0))
