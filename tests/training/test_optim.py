"""Optimiser rules against their recursions and against official training steps."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rstg_jax.errors import UserError
from rstg_jax.training import optim
from rstg_jax.training.optim import OptimizerConfig

GOLDEN = Path(__file__).parents[1] / "golden" / "train_nesterov.npz"


def run(config, start, gradients, total_steps=100):
    tx = optim.build(config, total_steps)
    params, out = start, []
    state = tx.init(params)
    for gradient in gradients:
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        out.append(params)
    return out


def test_nesterov_is_the_official_rule():
    """The gradients that the official code computed lead to the weights that it went to.

    Three steps of TensorFlow 1.13 with MomentumOptimizer(1e-3, 0.9, use_nesterov=True): weights
    before and after each, gradients of the summed loss.
    """
    golden = np.load(GOLDEN)
    prefix = "vars/step0/"
    names = [
        name.removeprefix(prefix)
        for name in golden.files
        if name.startswith(prefix) and f"grad_sumloss/step1/{name.removeprefix(prefix)}" in golden
    ]
    assert len(names) == 25
    start = {n: jnp.array(golden[prefix + n]) for n in names}
    gradients = [
        {n: jnp.array(golden[f"grad_sumloss/step{s}/{n}"]) for n in names} for s in (1, 2, 3)
    ]
    config = OptimizerConfig("nesterov", learning_rate=1e-3, schedule="constant")
    for step, params in enumerate(run(config, start, gradients), start=1):
        for name in names:
            np.testing.assert_allclose(
                params[name], golden[f"vars/step{step}/{name}"], rtol=2e-6, atol=2e-7, err_msg=name
            )


def test_nesterov_recursion_with_warmup():
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(6, 3))
    config = OptimizerConfig("nesterov", 0.1, "constant", warmup_steps=4, momentum=0.8)
    weights, momentum = np.ones(3), np.zeros(3)
    for step, got in enumerate(run(config, jnp.ones(3), list(jnp.array(gradients)))):
        rate = 0.1 * min(1, (step + 1) / 4)
        momentum = 0.8 * momentum + gradients[step]
        weights = weights - rate * (gradients[step] + 0.8 * momentum)
        np.testing.assert_allclose(got, weights, rtol=1e-5)


def test_adamw_recursion_with_clipping_decay_and_cosine():
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(5, 2, 3)) * 4
    config = OptimizerConfig("adamw", 0.1, warmup_steps=2, weight_decay=0.3, clip_norm=1.0)
    params = {"layer": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones((2, 3))}}
    trees = [{"layer": {"kernel": jnp.array(g), "bias": jnp.array(g)}} for g in gradients]
    out = run(config, params, trees, total_steps=10)
    kernel, bias = np.ones((2, 3)), np.ones((2, 3))
    first, second = np.zeros((2, 3)), np.zeros((2, 3))
    for s, g in enumerate(gradients):
        g = g / max(1, np.sqrt(2 * (g**2).sum()))  # the norm is over both leaves
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        move = first / (1 - 0.9 ** (s + 1)) / (np.sqrt(second / (1 - 0.999 ** (s + 1))) + 1e-8)
        rate = 0.1 * ((s + 1) / 2 if s < 2 else 0.5 * (1 + np.cos(np.pi * (s - 2) / 8)))
        kernel = kernel - rate * (move + 0.3 * kernel)
        bias = bias - rate * move
        np.testing.assert_allclose(out[s]["layer"]["kernel"], kernel, rtol=2e-5)
        np.testing.assert_allclose(out[s]["layer"]["bias"], bias, rtol=2e-5)


def test_the_rate_follows_the_batch():
    config = OptimizerConfig(learning_rate=0.1, reference_batch=64)
    rates = [config.for_batch(size).learning_rate for size in (16, 64, 256)]
    np.testing.assert_allclose(rates, [0.025, 0.1, 0.4], rtol=1e-12)
    assert config.for_batch(16) == config.for_batch(16).for_batch(99)  # not a second time
    assert OptimizerConfig(learning_rate=0.1).for_batch(16).learning_rate == 0.1


def test_schedule_ends_where_it_should():
    rate = optim.learning_rate(OptimizerConfig(learning_rate=2.0, end_factor=0.1), 10)
    np.testing.assert_allclose([rate(0), rate(10)], [2.0, 0.2], rtol=1e-6)
    assert rate(9) > 0.2  # the last update still has a rate above the end's
    # More warm-up than training: the rate is reached at the last step.
    rate = optim.learning_rate(OptimizerConfig(learning_rate=2.0, warmup_steps=50), 10)
    np.testing.assert_allclose([rate(0), rate(9)], [0.2, 2.0], rtol=1e-6)


def test_moving_average_forgets_the_start():
    average = {"w": jnp.zeros(())}
    wanted = 0.0
    for step in range(1, 40):
        average = optim.moving_average(0.7, jnp.int32(step), average, {"w": jnp.float32(step)})
        decay = min(0.7, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * step
    np.testing.assert_allclose(average["w"], wanted, rtol=1e-6)


@pytest.mark.parametrize(
    "fields",
    [
        {"learning_rate": -1.0},
        {"clip_norm": 0.0},
        {"ema_decay": 1.0},
        {"name": "nesterov", "weight_decay": 0.1},
        {"reference_batch": 0},
        {"momentum": 1.0},
        {"b1": -0.1},
        {"b2": 1.0},
        {"end_factor": -0.1},
        {"frozen": ("(",)},
        {"rates": (("head", -1.0),)},
    ],
)
def test_impossible_configurations_are_refused(fields):
    with pytest.raises(UserError):
        OptimizerConfig(**fields)


def test_rates_must_be_pairs():
    with pytest.raises(UserError, match=r"'optim\.rates': .* is not of type tuple"):
        OptimizerConfig(rates={"head": 10.0})


def test_something_must_be_trained():
    params = {"head": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
    marks = optim.frozen(["kernel"], params)
    assert marks == {"head": {"kernel": True, "bias": False}}
    with pytest.raises(UserError, match=r"'optim\.frozen': all weights are frozen"):
        optim.frozen(["head"], params)
