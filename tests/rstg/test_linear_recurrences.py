"""Linear recurrences against plain loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rstg_jax.rstg import RSTG, init_state, linear_recurrences, presets
from rstg_jax.rstg.linear_recurrences import scan_states
from rstg_jax.rstg.recurrent_cells import STATES, FrameRNN
from tests import derivatives

CELLS = tuple(linear_recurrences.CELLS)
every_cell = pytest.mark.parametrize("cell", CELLS)


@pytest.fixture(params=["one by one", "in parallel"])
def order(request, monkeypatch):
    """Both ways to compute the states: that of CPUs and that of other devices."""
    if request.param == "in parallel":
        in_parallel = linear_recurrences._in_parallel
        monkeypatch.setattr(linear_recurrences, "_one_by_one", in_parallel)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# --- the recurrence -------------------------------------------------------------------------------


def looped(decay, inputs, before):
    """`h_t = a_t h_(t-1) + b_t`, frame by frame, on complex numbers if there are two parts."""
    a, b, h = (
        parts[0] if len(parts) == 1 else jax.lax.complex(*parts)
        for parts in (decay, inputs, before)
    )
    states = []
    for t in range(len(b)):
        h = a[t] * h + b[t]
        states.append(h)
    states = jnp.stack(states)
    return (states,) if len(decay) == 1 else (states.real, states.imag)


@pytest.mark.parametrize("frames", [1, 7])
@pytest.mark.parametrize("parts", [1, 2])
def test_states_and_their_derivatives_are_those_of_the_loop(parts, frames, order):
    """To 1e-12 in float64: values, tangents, gradients of first and of second order."""
    rng = np.random.default_rng(frames)

    def drawn(*shape):
        return tuple(jnp.asarray(rng.normal(size=shape)) for _ in range(parts))

    with jax.enable_x64(True):
        # Decays are the same for all rows; one of them is a reset, after which nothing is left.
        decay = tuple(0.6 * part.at[frames // 2].set(0) for part in drawn(frames, 1, 3))
        inputs, before, weights = drawn(frames, 2, 3), drawn(2, 3), drawn(frames, 2, 3)

        assert before[0].dtype == jnp.float64

        def loss(states):
            return sum((w * jnp.sin(h)).sum() for w, h in zip(weights, states, strict=True))

        derivatives.assert_same(scan_states, looped, loss, (decay, inputs, before), 1e-12)


def test_the_backward_pass_keeps_decays_and_states_only():
    """Not the levels of the parallel scan as well, which JAX's own derivative of it keeps."""
    decay, inputs = (jax.random.uniform(jax.random.key(k), (64, 3, 5)) for k in (0, 1))

    def kept(run):
        backward = lambda a, b: jax.vjp(lambda a, b: run((a,), (b,)), a, b)[1]  # noqa: E731
        arrays = jax.tree.leaves(jax.eval_shape(backward, decay, inputs))
        return sum(array.size for array in arrays) / inputs.size

    zero = (jnp.zeros((3, 5)),)
    assert kept(lambda a, b: scan_states(a, b, zero)) < 4.1  # slices of both, not compiled
    assert kept(linear_recurrences._in_parallel) > 4.6


# --- the cells ------------------------------------------------------------------------------------


def looped_lru(w, frames, h):
    n = len(w["log_rate"])
    decay = np.exp(-np.exp(w["log_rate"]) + 1j * w["phase"])
    inputs = w["input_kernel"][:, :n] + 1j * w["input_kernel"][:, n:]
    outputs = w["output_kernel"][:n] - 1j * w["output_kernel"][n:]
    h, out = h[0] + 1j * h[1], []
    for x in frames:
        h = decay * h + w["gain"] * (x @ inputs)
        out.append((h @ outputs).real)
    return out, (h.real, h.imag)


def looped_rg_lru(w, frames, h):
    (h,), out = h, []
    for x in frames:
        x, y = np.split(x @ w["input_kernel"] + w["input_bias"], 2, -1)
        r, i = np.split(sigmoid(x @ w["gate_kernel"] + w["gate_bias"]), 2, -1)
        a = np.exp(-8 * r * np.log1p(np.exp(w["rate"])))
        h = a * h + np.sqrt(1 - a**2) * i * x
        gelu = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
        out.append((h * gelu) @ w["output_kernel"])
    return out, (h,)


def looped_min_gru(w, frames, h):
    (h,), out = h, []
    for x in frames:
        z, n = np.split(x @ w["input_kernel"] + w["bias"], 2, -1)
        h = (1 - sigmoid(z)) * h + sigmoid(z) * n
        out.append(h)
    return out, (h,)


LOOPS = {"lru": looped_lru, "rg_lru": looped_rg_lru, "min_gru": looped_min_gru}


@pytest.mark.parametrize("frames", [1, 7])
@every_cell
def test_cells_are_their_loops(cell, frames, order):
    rng = np.random.default_rng(2)
    nodes = rng.normal(size=(3, frames, 2, 5)).astype(np.float32)  # [n t b d]
    module = FrameRNN(4, cell, memory_span=20)
    fresh = jax.jit(module.init)(jax.random.key(0), nodes)["params"]
    weights = {k: v + np.float32(rng.normal(size=v.shape) / 4) for k, v in fresh.items()}
    carry = tuple(rng.normal(size=(2, 3, 2, 4))[: STATES[cell]].astype(np.float32))
    wide = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    outputs, last = LOOPS[cell](wide, np.swapaxes(nodes, 0, 1).astype(np.float64), carry)
    got, got_last = jax.jit(module.apply)({"params": weights}, nodes, carry)
    np.testing.assert_allclose(np.swapaxes(got, 0, 1), outputs, atol=2e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), got_last, last)


@every_cell
def test_time_constants_at_the_start_reach_from_a_frame_to_the_span(cell):
    """The states after one frame of input and ten frames of nothing."""
    module = FrameRNN(5, cell, memory_span=625)
    frame = jax.random.normal(jax.random.key(1), (1, 1, 3, 5))
    variables = jax.jit(module.init)(jax.random.key(0), frame)
    run = jax.jit(module.apply)
    _, first = run(variables, frame)
    _, later = run(variables, jnp.zeros((1, 10, 3, 5)), first)
    size, kept = (np.sqrt(sum(np.square(part) for part in carry)) for carry in (first, later))
    expected = np.exp(-10 / np.array([1, 5, 25, 125, 625]))
    np.testing.assert_allclose(kept / size, np.broadcast_to(expected, size.shape), rtol=1e-4)


def test_white_noise_keeps_its_variance():
    """So that slow units neither drown fast ones nor drown in them."""
    frames = np.random.default_rng(0).normal(size=(20_000, 64))
    module = FrameRNN(64, "lru", memory_span=100)
    weights = jax.jit(module.init)(jax.random.key(1), jnp.ones((1, 1, 1, 64)))["params"]
    read = {"output_kernel": jnp.eye(128, 64)}  # the real parts of the states
    nodes = frames[None, :, None].astype(np.float32)
    outputs, _ = jax.jit(module.apply)({"params": weights | read}, nodes)
    re, im = np.split(frames @ weights["input_kernel"], 2, -1)
    ratio = np.asarray(outputs)[0, 1000:, 0].var(0) / ((re.var(0) + im.var(0)) / 2)
    assert 0.97 < ratio.mean() < 1.03
    assert (ratio > 0.7).all() and (ratio < 1.4).all()


@every_cell
def test_no_weight_makes_the_state_grow_or_a_gradient_infinite(cell):
    nodes = 100 * jax.random.normal(jax.random.key(0), (2, 9, 1, 4))
    module = FrameRNN(4, cell)
    fresh = jax.jit(module.init)(jax.random.key(1), nodes)["params"]
    run = jax.jit(module.apply)
    decays = {"lru": ("log_rate", "phase"), "rg_lru": ("rate", "gate_bias"), "min_gru": ("bias",)}

    def outputs(weights):
        return jnp.square(module.apply({"params": weights}, nodes)[0]).sum()

    gradient = jax.jit(jax.grad(outputs))
    for name in decays[cell]:
        for value in (-1e4, -100.0, 100.0, 1e4):
            weights = fresh | {name: jnp.full_like(fresh[name], value)}
            for leaf in jax.tree.leaves(gradient(weights)):
                assert np.isfinite(leaf).all(), (name, value)
            still = jnp.zeros((2, 50, 1, 4))
            if cell == "min_gru":
                weights = weights | {"bias": weights["bias"].at[4:].set(0)}
            before = tuple(jnp.ones((2, 1, 4)) for _ in range(2 if cell == "lru" else 1))
            _, after = run({"params": weights}, still, before)
            size = sum(np.square(part) for part in after)
            assert (size <= len(before) * (1 + 1e-5)).all(), (name, value)


def test_a_closed_gate_keeps_the_state_bit_for_bit():
    nodes = jax.random.normal(jax.random.key(0), (2, 300, 1, 4))
    before = (jax.random.normal(jax.random.key(1), (2, 1, 4)),)
    for cell, bias in (("rg_lru", "gate_bias"), ("min_gru", "bias")):
        module = FrameRNN(4, cell)
        weights = jax.jit(module.init)(jax.random.key(2), nodes)["params"]
        weights = weights | {bias: weights[bias].at[:4].set(-1e4)}
        run = jax.jit(module.apply)
        _, after = run({"params": weights}, nodes, before)
        np.testing.assert_array_equal(after[0], before[0])
        _, after = run({"params": weights | {bias: weights[bias] * 0}}, nodes, before)
        assert (np.asarray(after[0]) != before[0]).all()


@every_cell
def test_very_long_videos_stay_finite(cell):
    nodes = jax.random.normal(jax.random.key(0), (1, 65_536, 1, 2))
    module = FrameRNN(2, cell, memory_span=65_536)
    variables = jax.jit(module.init)(jax.random.key(1), nodes[:, :1])
    outputs, carry = jax.jit(module.apply)(variables, nodes)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((outputs, carry)))
    assert np.abs(outputs).max() < 1e4


@every_cell
def test_memory_in_bfloat16_is_that_of_float32(cell):
    """Streamed frame by frame: a state in bfloat16 would not decay at all at this pace."""
    block = RSTG(presets.modern(dim=4, scales=(1,), stages=("time",), cell=cell, memory_span=4000))
    variables = jax.jit(block.init)(jax.random.key(0), jnp.ones((1, 1, 1, 1, 4)))
    state = init_state(block.config, 1, jnp.bfloat16)
    state = jax.tree.map(jnp.ones_like, state)
    step = jax.jit(lambda x, s: block.apply(variables, x, s, method="stream")[1])
    still = jnp.zeros((1, 400, 1, 1, 4))
    exact = step(still, state)
    for start in range(0, 400, 4):
        state = step(still[:, start : start + 4].astype(jnp.bfloat16), state)
    assert all(part.dtype == jnp.float32 for part in jax.tree.leaves(state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=5e-3), state, exact)
    slowest = np.sqrt(sum(np.square(np.asarray(part)[..., -1]) for part in state[0]))
    expected = np.exp(-400 / 4000) * np.sqrt(len(state[0]))
    np.testing.assert_allclose(slowest, expected, rtol=5e-3)
