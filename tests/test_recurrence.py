"""Time stages against a plain loop in float64 and against PyTorch-style equations."""

import jax
import jax.numpy as jnp
import numpy as np

from rstg_jax.recurrence import TimeStage, glorot_per_gate, lstm_cell, scan_frames


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def looped_lstm(input_kernel, recurrent_kernel, bias, frames):
    """`[t ... d]` -> outputs of every frame, float64, gate by gate."""
    d = recurrent_kernel.shape[0]
    names = ("input", "candidate", "forget", "output")
    w, u, b = (
        {name: part[..., k * d : (k + 1) * d] for k, name in enumerate(names)}
        for part in (input_kernel, recurrent_kernel, bias)
    )
    memory = output = np.zeros((*frames.shape[1:-1], d))
    outputs = []
    for x in frames.astype(np.float64):
        gate = {name: x @ w[name] + output @ u[name] + b[name] for name in names}
        keep, write = sigmoid(gate["forget"]), sigmoid(gate["input"])
        memory = keep * memory + write * np.tanh(gate["candidate"])
        output = sigmoid(gate["output"]) * np.tanh(memory)
        outputs.append(output)
    return np.stack(outputs)


def test_time_stage_is_the_loop():
    nodes = np.random.default_rng(0).normal(size=(3, 6, 2, 5)).astype(np.float32)  # [n t b d]
    stage = TimeStage(5, forget_bias=1.0)
    variables = stage.init(jax.random.key(0), nodes)
    weights = variables["params"]
    assert np.asarray(weights["bias"]).tolist() == [0.0] * 10 + [1.0] * 5 + [0.0] * 5
    expected = looped_lstm(
        weights["input_kernel"],
        weights["recurrent_kernel"],
        weights["bias"],
        np.swapaxes(nodes, 0, 1),
    )
    got = stage.apply(variables, nodes)
    np.testing.assert_allclose(np.swapaxes(got, 0, 1), expected, atol=1e-6)


def test_scan_and_python_loop_agree_in_values_and_gradients():
    rng = np.random.default_rng(1)
    kernel = jnp.asarray(rng.normal(size=(4, 16)) * 0.5, jnp.float32)
    projected = jnp.asarray(rng.normal(size=(7, 3, 4 * 4)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(7, 3, 4)), jnp.float32)

    def looped(kernel, projected):
        carry = (jnp.zeros((3, 4)), jnp.zeros((3, 4)))
        outputs = []
        for frame in projected:
            carry, output = lstm_cell(kernel, carry, frame)
            outputs.append(output)
        return jnp.stack(outputs)

    def objective(run):
        return jax.grad(lambda k, p: (run(k, p) * weights).sum(), (0, 1))

    np.testing.assert_allclose(scan_frames(kernel, projected), looped(kernel, projected), atol=1e-6)
    for got, expected in zip(
        objective(scan_frames)(kernel, projected), objective(looped)(kernel, projected), strict=True
    ):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_glorot_limit_counts_one_gate():
    kernel = glorot_per_gate(jax.random.key(0), (300, 4 * 100))
    limit = np.sqrt(6 / (300 + 100))
    assert np.abs(kernel).max() <= limit
    np.testing.assert_allclose(np.std(kernel), limit / np.sqrt(3), rtol=0.01)
