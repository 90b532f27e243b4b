"""Time stages against plain loops in float64."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np

from rstg_jax.rstg.recurrent_cells import (
    Cell,
    FrameRNN,
    glorot_per_gate,
    lstm_cell,
    scan_lstm,
)
from tests import derivatives


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def looped_lstm(input_kernel, recurrent_kernel, bias, frames):
    """`[t ... d]` -> outputs of every frame, float64, gate by gate."""
    d = recurrent_kernel.shape[0]
    w, u, b = (
        {gate: part[..., k * d : (k + 1) * d] for k, gate in enumerate("igfo")}
        for part in (input_kernel, recurrent_kernel, bias)
    )
    c = h = np.zeros((*frames.shape[1:-1], d))
    outputs = []
    for x in frames.astype(np.float64):
        i, g, f, o = (x @ w[gate] + h @ u[gate] + b[gate] for gate in "igfo")
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs)


def test_time_stage_is_the_loop():
    nodes = np.random.default_rng(0).normal(size=(3, 6, 2, 5)).astype(np.float32)  # [n t b d]
    stage = FrameRNN(5, forget_bias=1.0)
    variables = jax.jit(stage.init)(jax.random.key(0), nodes)
    weights = variables["params"]
    assert np.asarray(weights["bias"]).tolist() == [0.0] * 10 + [1.0] * 5 + [0.0] * 5
    expected = looped_lstm(
        weights["input_kernel"],
        weights["recurrent_kernel"],
        weights["bias"],
        np.swapaxes(nodes, 0, 1),
    )
    got = jax.jit(stage.apply)(variables, nodes)[0]
    np.testing.assert_allclose(np.swapaxes(got, 0, 1), expected, atol=1e-6)


def test_differences_are_inputs_of_the_loop():
    nodes = np.random.default_rng(3).normal(size=(3, 6, 2, 5)).astype(np.float32)  # [n t b c]
    stage = FrameRNN(4, differences=True)
    variables = jax.jit(stage.init)(jax.random.key(0), nodes)
    frames, inputs = np.swapaxes(nodes, 0, 1), []
    for t, x in enumerate(frames):
        change = x - frames[t - 1] if t else x
        inputs.append(np.concatenate([x, 4 * change], -1))
    kernels = (variables["params"][name] for name in ("input_kernel", "recurrent_kernel", "bias"))
    expected = looped_lstm(*kernels, np.stack(inputs))
    got, carry = jax.jit(stage.apply)(variables, nodes)
    np.testing.assert_allclose(np.swapaxes(got, 0, 1), expected, atol=1e-6)
    np.testing.assert_array_equal(carry[-1], frames[-1])


def test_lags_are_inputs_of_the_loop():
    nodes = np.random.default_rng(3).normal(size=(3, 9, 2, 5)).astype(np.float32)  # [n t b c]
    stage = FrameRNN(4, differences=True, lags=(3, 1))
    variables = jax.jit(stage.init)(jax.random.key(0), nodes)
    weights = {name: np.asarray(value, np.float64) for name, value in variables["params"].items()}
    frames = np.swapaxes(nodes, 0, 1).astype(np.float64)
    changes = [x - frames[t - 1] if t else x for t, x in enumerate(frames)]
    now = [np.concatenate([x, 4 * change], -1) for x, change in zip(frames, changes, strict=True)]
    kernels = np.split(weights["lag_kernel"], 2, axis=-1)  # of two features each

    def inputs(lags):
        rows = []
        for t, x in enumerate(now):
            row = [x]
            for lag, kernel in zip(lags, kernels, strict=True):
                row.append(now[t - lag] @ kernel if t >= lag else np.zeros((3, 2, 2)))
            rows.append(np.concatenate(row, -1))
        return np.stack(rows)

    def expected(lags):
        names = ("input_kernel", "recurrent_kernel", "bias")
        return looped_lstm(*(weights[name] for name in names), inputs(lags))

    got, carry = jax.jit(stage.apply)(variables, nodes)
    got = np.swapaxes(got, 0, 1)
    np.testing.assert_allclose(got, expected((3, 1)), atol=1e-6)
    assert np.abs(got - expected((1, 3))).max() > 0.01
    kept = np.stack([x @ kernels[0] for x in now[-3:]])  # [lag n b e]
    np.testing.assert_allclose(carry[-2].reshape(3, 2, 3, 2), np.moveaxis(kept, 0, -2), atol=1e-5)


def test_scan_and_python_loop_agree_in_values_carry_and_gradients():
    """Gradients of first and second order, by kernel, first carry and inputs; and tangents."""
    rng = np.random.default_rng(1)
    kernel = jnp.asarray(rng.normal(size=(4, 16)) * 0.5, jnp.float32)
    projected = jnp.asarray(rng.normal(size=(4, 3, 4 * 4)), jnp.float32)
    carry = tuple(jnp.asarray(rng.normal(size=(3, 4)), jnp.float32) for _ in range(2))
    weights = jnp.asarray(rng.normal(size=(4, 3, 4)), jnp.float32)

    def looped(kernel, carry, projected):
        outputs = []
        for frame in projected:
            carry, h = lstm_cell(kernel, carry, frame)
            outputs.append(h)
        return carry, jnp.stack(outputs)

    def loss(result):
        (c, h), outputs = result
        return (outputs * weights).sum() + (c**2).sum() + h.sum()

    derivatives.assert_same(scan_lstm, looped, loss, (kernel, carry, projected), 1e-5)


def test_two_halves_with_the_carry_between_are_the_whole():
    rng = np.random.default_rng(0)
    nodes = rng.normal(size=(3, 6, 2, 5)).astype(np.float32)
    of_cells = [(cell, {}) for cell in get_args(Cell)]
    earlier = {"differences": True, "lags": (1, 4)}  # one lag is longer than a half
    for cell, choices in [*of_cells, ("lstm", earlier), ("window", earlier)]:
        nodes = nodes[..., :4] if choices else nodes  # a carry holds as many as the cell has
        stage = FrameRNN(4, cell, memory_span=5, **choices)
        shapes = jax.eval_shape(stage.init, jax.random.key(1), nodes)
        variables = jax.tree.map(lambda x: np.float32(rng.normal(size=x.shape) / 2), shapes)
        run = jax.jit(stage.apply)
        whole, last = run(variables, nodes)
        carry = stage.zero_carry(np.zeros((3, 2, 4), np.float32))
        parts = []
        for start in (0, 3):
            part, carry = run(variables, nodes[:, start : start + 3], carry)
            parts.append(part)
        np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), carry, last)


def test_gru_is_the_loop():
    nodes = np.random.default_rng(2).normal(size=(3, 6, 2, 5)).astype(np.float32)  # [n t b d]
    stage = FrameRNN(4, "gru", forget_bias=1.0)
    variables = jax.jit(stage.init)(jax.random.key(0), nodes)
    weights = {name: np.asarray(value, np.float64) for name, value in variables["params"].items()}
    assert weights["bias"].tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 4
    weights["recurrent_bias"] += np.arange(4) / 4
    variables = {"params": {name: jnp.float32(value) for name, value in weights.items()}}
    h, expected = np.zeros((3, 2, 4)), []
    for x in np.swapaxes(nodes, 0, 1):
        given = np.split(x @ weights["input_kernel"] + weights["bias"], 3, -1)
        recurrent = np.split(h @ weights["recurrent_kernel"], 3, -1)
        r, z = (sigmoid(given[gate] + recurrent[gate]) for gate in (0, 1))
        n = np.tanh(given[2] + r * (recurrent[2] + weights["recurrent_bias"]))
        h = z * h + (1 - z) * n
        expected.append(h)
    got = jax.jit(stage.apply)(variables, nodes)[0]
    np.testing.assert_allclose(np.swapaxes(got, 0, 1), expected, atol=1e-6)


def test_two_biases_are_one_that_moves_twice_as_fast():
    nodes = jax.random.normal(jax.random.key(0), (2, 3, 1, 4))
    one, two = FrameRNN(4), FrameRNN(4, two_biases=True)
    variables = two.init(jax.random.key(1), nodes)
    bias = jnp.arange(16.0) / 16
    params = variables["params"] | {"bias": bias, "recurrent_bias": 2 * bias}
    single = {k: v for k, v in params.items() if k != "recurrent_bias"} | {"bias": 3 * bias}
    expected = one.apply({"params": single}, nodes)[0]
    np.testing.assert_allclose(two.apply({"params": params}, nodes)[0], expected, atol=1e-6)
    grads = jax.grad(lambda p: two.apply({"params": p}, nodes)[0].sum())(params)
    np.testing.assert_array_equal(grads["bias"], grads["recurrent_bias"])


def test_glorot_limit_counts_one_gate():
    kernel = glorot_per_gate(jax.random.key(0), (300, 4 * 100))
    limit = np.sqrt(6 / (300 + 100))
    assert np.abs(kernel).max() <= limit
    np.testing.assert_allclose(np.std(kernel), limit / np.sqrt(3), rtol=0.01)
