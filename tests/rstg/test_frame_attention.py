"""Attention to earlier frames against a loop over frames, lags and heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rstg_jax.rstg import RSTG, frame_attention, presets
from rstg_jax.rstg.recurrent_cells import FrameRNN

SPAN = 5
LAGS = {"window": range(SPAN + 1), "dilated": (0, 1, 2, 4)}
every_cell = pytest.mark.parametrize("cell", LAGS)


def looped(xp, cell, w, frames, first=0):
    """Outputs of frames `[t n b c]`, one at a time; those before `first` are not there."""
    projected = [frame @ w["input_kernel"] for frame in frames]
    q, k, v = ([xp.split(x, 3, -1)[part] for x in projected] for part in range(3))
    outputs = []
    for t in range(len(frames)):
        heads = []
        for h in range(4):
            part = slice(2 * h, 2 * h + 2)  # of 8 features
            lags = [(i, lag) for i, lag in enumerate(LAGS[cell]) if t - lag >= first]
            scores = xp.stack(
                [
                    (q[t][..., part] * k[t - lag][..., part]).sum(-1) / 2**0.5 + w["lag_bias"][h, i]
                    for i, lag in lags
                ]
            )
            share = xp.exp(scores - scores.max(0))
            share = share / share.sum(0)
            seen = xp.stack([v[t - lag][..., part] for _, lag in lags])
            heads.append((share[..., None] * seen).sum(0))
        outputs.append(xp.concatenate(heads, -1) @ w["output_kernel"])
    return xp.stack(outputs)


def drawn(cell, frames):
    """A cell, random weights, and nodes `[n t b c]`."""
    rng = np.random.default_rng(frames)
    nodes = rng.normal(size=(2, frames, 2, 3)).astype(np.float32)
    module = FrameRNN(8, cell, memory_span=SPAN)
    shapes = jax.eval_shape(module.init, jax.random.key(0), nodes)["params"]
    weights = {k: rng.normal(size=v.shape).astype(np.float32) for k, v in shapes.items()}
    return module, weights, nodes


@pytest.mark.parametrize("frames", [1, 7, 17])  # of the window: at once, at once, four parts
@every_cell
def test_cells_are_their_loops(cell, frames):
    module, weights, nodes = drawn(cell, frames)
    wide = {name: value.astype(np.float64) for name, value in weights.items()}
    expected = looped(np, cell, wide, np.swapaxes(nodes, 0, 1).astype(np.float64))
    outputs, _ = jax.jit(module.apply)({"params": weights}, nodes)
    np.testing.assert_allclose(np.swapaxes(outputs, 0, 1), expected, atol=1e-5)
    if frames > SPAN + 1:
        other = "dilated" if cell == "window" else "window"
        with_other = wide | {"lag_bias": np.ones((4, len(LAGS[other])))}
        wrong = looped(np, other, with_other, np.swapaxes(nodes, 0, 1))
        assert np.abs(wrong - expected).max() > 0.1


@pytest.mark.parametrize("parts", [(4, 13), (1, 2, 14), (9, 1, 1, 6)])
@every_cell
def test_parts_with_the_state_between_are_the_whole(cell, parts):
    module, weights, nodes = drawn(cell, 17)
    whole, last = module.apply({"params": weights}, nodes)
    carry = module.zero_carry(jnp.zeros((2, 2, 8)))
    assert [x.shape[-1] for x in carry] == list(frame_attention.kept_widths(8, SPAN))
    outputs, start = [], 0
    for count in parts:
        out, carry = module.apply({"params": weights}, nodes[:, start : start + count], carry)
        outputs.append(out)
        start += count
    np.testing.assert_allclose(np.concatenate(outputs, 1), whole, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), carry, last)


@every_cell
def test_gradients_are_those_of_the_loop(cell):
    """Along random directions, in which the loop in float64 has differences: nothing compiles."""
    module, weights, nodes = drawn(cell, 12)

    def of_module(inputs):
        return jnp.sin(module.apply({"params": inputs[0]}, inputs[1])[0]).sum()

    def of_loop(inputs):
        return np.sin(looped(np, cell, inputs[0], np.swapaxes(inputs[1], 0, 1))).sum()

    found, tree = jax.tree.flatten(jax.jit(jax.grad(of_module))((weights, nodes)))
    wide = [leaf.astype(np.float64) for leaf in jax.tree.leaves((weights, nodes))]
    rng, step = np.random.default_rng(0), 1e-5
    for number, gradient in enumerate(found):
        for _ in range(5):
            direction = rng.normal(size=gradient.shape)
            ahead, behind = (
                of_loop(tree.unflatten([*wide[:number], moved, *wide[number + 1 :]]))
                for moved in (wide[number] + step * direction, wide[number] - step * direction)
            )
            wanted = (ahead - behind) / (2 * step)
            assert np.vdot(gradient, direction) == pytest.approx(wanted, rel=1e-4, abs=1e-4)
        assert np.abs(gradient).max() > 0.1


def test_lags_of_the_dilated_cell_double_up_to_the_span():
    assert frame_attention.lags_of(1) == (0, 1)
    assert frame_attention.lags_of(64) == (0, 1, 2, 4, 8, 16, 32, 64)
    assert frame_attention.lags_of(100) == (0, 1, 2, 4, 8, 16, 32, 64)


@every_cell
def test_nothing_older_than_the_span_is_seen(cell):
    """One time stage sees as many frames as it says, and no more."""
    block = RSTG(presets.modern(dim=8, scales=(1,), stages=("time",), cell=cell, memory_span=4))
    features = np.random.default_rng(0).normal(size=(1, 7, 2, 2, 3)).astype(np.float32)
    variables = jax.jit(block.init)(jax.random.key(0), features)

    def last(features):
        return jnp.sin(block.apply(variables, features).nodes[0, -1]).sum()  # a norm fixes the sum

    seen = np.abs(jax.jit(jax.grad(last))(features)).max((0, 2, 3, 4)) > 1e-7
    assert seen.tolist() == [False, False, True, cell == "window", True, True, True]
