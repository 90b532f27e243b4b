"""Both lowerings of linear layers give the same values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rstg_jax.layers import linear
from rstg_jax.rstg import RSTG, presets

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 3, 2, 5)).astype(np.float32)


@pytest.fixture(params=[True, False], ids=["flat", "plain"])
def lowering(request, monkeypatch):
    monkeypatch.setattr(linear, "flattens", lambda: request.param)


def test_linear_is_a_product_over_the_last_axis(lowering):
    kernel, bias = RNG.normal(size=(5, 6)), RNG.normal(size=6)
    expected = np.einsum("abcd,de->abce", X.astype(np.float64), kernel)
    got = linear.linear(jnp.asarray(X), jnp.asarray(kernel, jnp.float32))
    np.testing.assert_allclose(got, expected, atol=1e-5)
    got = linear.linear(
        jnp.asarray(X), jnp.asarray(kernel, jnp.float32), jnp.asarray(bias, jnp.float32)
    )
    np.testing.assert_allclose(got, expected + bias, atol=1e-5)


def test_constant_product_is_a_product_over_the_first_axis(lowering):
    matrix = RNG.integers(0, 2, (7, 4))
    expected = np.einsum("km,mtbd->ktbd", matrix, X.astype(np.float64))
    np.testing.assert_allclose(linear.constant_product(matrix, jnp.asarray(X)), expected, atol=1e-6)
    empty = linear.constant_product(np.zeros((2, 0)), jnp.zeros((0, 3, 2)))
    np.testing.assert_array_equal(empty, np.zeros((2, 3, 2)))


def test_pool_frames_combines_the_pixels_of_every_frame(lowering):
    rng = np.random.default_rng(1)
    matrix = rng.random((7, 2))
    expected = np.einsum("nm,abmc->nabc", matrix, X.astype(np.float64))
    np.testing.assert_allclose(linear.pool_frames(matrix, jnp.asarray(X)), expected, atol=1e-6)
    given = rng.normal(size=expected.shape).astype(np.float32)
    (gradient,) = jax.vjp(lambda x: linear.pool_frames(matrix, x), jnp.asarray(X))[1](given)
    expected = np.einsum("nm,nabc->abmc", matrix, given)
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_the_block_does_not_depend_on_the_lowering(monkeypatch):
    block = RSTG(presets.modern(iterations=1, dim=6, scales=(2, 1), attention="dot", num_heads=2))
    features = RNG.normal(size=(2, 3, 4, 5, 7)).astype(np.float32)
    variables = jax.jit(block.init)(jax.random.key(0), features)
    results, asked = [], {True: 0, False: 0}

    def flattens(flat):
        asked[flat] += 1
        return flat

    for flat in (True, False):
        monkeypatch.setattr(linear, "flattens", functools.partial(flattens, flat))

        def objective(variables, features):
            return jnp.sin(block.apply(variables, features).nodes).sum()

        results.append(jax.jit(jax.value_and_grad(objective, (0, 1)))(variables, features))
    assert asked[True] == asked[False] > 0  # the second is no program of the first, not in parts
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), *results)
