"""Accumulated, frozen and scaled updates against plain loops."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rstg_jax.errors import UserError
from rstg_jax.training import losses, sharding, steps, train_state
from rstg_jax.training.losses import LossConfig
from rstg_jax.training.optim import OptimizerConfig
from rstg_jax.training.sharding import MeshConfig

SHAPE = (2, 4, 4, 1)
BATCH, CLASSES = 16, 3


class Network(nn.Module):
    """Two layers; no dropout and no batch norm, so that parts of a batch do not differ from it."""

    @nn.compact
    def __call__(self, video, train):
        x = video.astype(jnp.float32).reshape(*video.shape[:2], -1) / 255
        frames = nn.Dense(CLASSES, name="head")(jnp.tanh(nn.Dense(8, name="backbone")(x)))
        return frames.mean(1), {"frame_logits": frames}


def batch(number, mask=None):
    rng = np.random.default_rng(number)
    return {
        "video": rng.integers(0, 256, (BATCH, *SHAPE)).astype(np.uint8),
        "label": rng.integers(0, CLASSES, BATCH).astype(np.int32),
        "mask": np.ones(BATCH, np.float32) if mask is None else np.float32(mask),
    }


def updates(optim, count=3, loss=LossConfig(frame_weight=0.5), mask=None, **fields):  # noqa: B008
    """The state before and after some updates, and the sums of the last one."""
    setup = train_state.make_setup(Network(), loss, optim, 10, **fields)
    first = state = jax.jit(train_state.init_state, static_argnums=(0, 1))(
        setup, SHAPE, jnp.int32(0)
    )
    step = jax.jit(steps.train_step, static_argnums=0)
    for number in range(count):
        state, sums = step(setup, state, batch(number, mask))
    return first, state, sums


def assert_close(actual, expected):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


SGD = OptimizerConfig("nesterov", 0.1, "constant", clip_norm=0.5, ema_decay=0.9)
# Rows i, i + 4, ... are one part: 4, 3, 1 and 0 of them are real.
MASK = [1, 1, 0, 0, 1, 1, 1, 0, 1, 1, 0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize("mask", [None, MASK], ids=["full", "padded"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_parts_of_a_batch_make_the_update_of_the_whole(reduction, mask):
    loss = LossConfig(reduction, frame_weight=0.5)
    _, state, sums = updates(SGD, loss=loss, mask=mask)
    first, parts, part_sums = updates(SGD, loss=loss, mask=mask, accumulate=4)
    assert_close(parts, state)
    assert_close(part_sums, sums)
    assert sums["count"] == part_sums["count"] == (BATCH if mask is None else 8)
    assert np.abs(first.params["head"]["kernel"] - state.params["head"]["kernel"]).max() > 0.01


def test_the_accumulated_gradient_is_that_of_a_loop_over_examples():
    setup = train_state.make_setup(Network(), LossConfig(), SGD, 10, accumulate=4)
    state = train_state.init_state(setup, SHAPE, jnp.int32(0))
    rows = batch(0, MASK)

    @jax.jit
    @jax.grad
    def one(params, video, label):
        logits, _ = Network().apply({"params": params}, video[None], False)
        return losses.cross_entropy(logits, label[None])[0]

    real = np.flatnonzero(rows["mask"])
    each = [one(state.params, rows["video"][i], rows["label"][i]) for i in real]
    expected = jax.tree.map(lambda *g: sum(g) / len(real), *each)
    actual, _, _ = jax.jit(steps.accumulated_gradients, static_argnums=(0, 3))(
        setup, state, rows, steps.as_they_are
    )
    assert_close(actual, expected)
    # Parts with as many real examples as the others would hide wrong weights.
    assert len({int(rows["mask"][i::4].sum()) for i in range(4)}) == 4


def test_accumulation_moves_no_activation_between_devices():
    mesh = sharding.make_mesh(MeshConfig(8, 1, 1))
    setup = train_state.make_setup(Network(), LossConfig(), SGD, 10, accumulate=2)
    abstract = train_state.abstract_state(setup, SHAPE, mesh)
    given = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), batch(0))
    text = steps.jit_train_step(setup, mesh, abstract).lower(abstract, given).compile().as_text()
    assert set(re.findall(r" (all-\w[\w-]*|collective-\w+|reduce-scatter)\(", text)) == {
        "all-reduce"
    }
    with pytest.raises(UserError, match=r"24 is not .* 8 devices .* 2 parts .*; use 32"):
        sharding.check_batch_size(24, mesh, "train.batch_size", 2)


@pytest.mark.parametrize("name", ["nesterov", "adamw", "muon"])
def test_frozen_weights_do_not_move_by_a_bit(name):
    decay = 0.0 if name == "nesterov" else 0.3
    choices = {"learning_rate": 0.1, "weight_decay": decay, "ema_decay": 0.9}
    optim = OptimizerConfig(name, frozen=("params/backbone",), **choices)
    first, state, sums = updates(optim)
    for params in (state.params, state.ema_params):
        for leaf, old in zip(
            params["backbone"].values(), first.params["backbone"].values(), strict=True
        ):
            np.testing.assert_array_equal(leaf, old)
        assert np.abs(params["head"]["kernel"] - first.params["head"]["kernel"]).max() > 1e-3
    # Nothing of the optimiser belongs to them, and the norm is that of the other gradients.
    names = map(jax.tree_util.keystr, dict(jax.tree_util.tree_leaves_with_path(state.opt_state)))
    assert not [key for key in names if "backbone" in key]
    _, free, free_sums = updates(OptimizerConfig(name, **choices), count=1)
    assert (
        np.abs(free.params["backbone"]["kernel"] - first.params["backbone"]["kernel"]).max() > 1e-3
    )
    assert updates(optim, count=1)[2]["grad_norm"] < free_sums["grad_norm"]


def test_a_frozen_backbone_trains_its_head_like_a_head_alone():
    optim = OptimizerConfig(
        "adamw", 0.1, "constant", weight_decay=0.3, clip_norm=0.1, frozen=("backbone/",)
    )
    first, state, _ = updates(optim, loss=LossConfig())
    tx = optax.chain(
        optax.clip_by_global_norm(0.1),
        optax.adamw(0.1, weight_decay=0.3, mask={"kernel": True, "bias": False}),
    )
    head = first.params["head"]
    opt_state = tx.init(head)

    @jax.jit
    @jax.grad
    def gradient(head, rows):
        logits, _ = Network().apply({"params": {**first.params, "head": head}}, rows["video"], True)
        return losses.cross_entropy(logits, rows["label"]).mean()

    for number in range(3):
        moved, opt_state = tx.update(gradient(head, batch(number)), opt_state, head)
        head = optax.apply_updates(head, moved)
    assert_close(state.params["head"], head)


def test_rates_multiply_updates_and_the_first_pattern_counts():
    rates = (("head/kernel", 0.25), ("head", 3.0))
    plain = OptimizerConfig("adamw", 0.01, "constant", weight_decay=0.3)
    first, one, _ = updates(plain, count=1)
    _, scaled, _ = updates(
        OptimizerConfig("adamw", 0.01, "constant", weight_decay=0.3, rates=rates), count=1
    )
    moves = jax.tree.map(lambda a, b: a - b, one.params, first.params)
    expected = {
        "backbone": moves["backbone"],
        "head": {"kernel": 0.25 * moves["head"]["kernel"], "bias": 3.0 * moves["head"]["bias"]},
    }
    assert_close(jax.tree.map(lambda a, b: a - b, scaled.params, first.params), expected)


@pytest.mark.parametrize("fields", [{"frozen": ("bakbone",)}, {"rates": (("bakbone", 0.1),)}])
def test_patterns_in_vain_are_refused(fields):
    key = next(iter(fields))
    with pytest.raises(UserError, match=rf"optim\.{key}.*'bakbone'.*params/backbone, params/head"):
        updates(OptimizerConfig(**fields), count=0)
