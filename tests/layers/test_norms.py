"""The written-out derivative of `standardise` is that of its definition, in every mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rstg_jax.layers import norms

RNG = np.random.default_rng(0)
X, V, W = RNG.normal(2.0, 3.0, size=(3, 4, 5, 6)).astype(np.float32)
EPSILON = 1e-2


def definition(x, axes):
    deviation = x - x.mean(axes, keepdims=True)
    variance = (deviation**2).mean(axes, keepdims=True)
    return deviation / jnp.sqrt(variance + EPSILON)


def without_mean(x, axes):
    """A negative control: no gradient flows through the mean."""
    deviation = x - jax.lax.stop_gradient(x.mean(axes, keepdims=True))
    return deviation / jnp.sqrt((deviation**2).mean(axes, keepdims=True) + EPSILON)


def without_variance(x, axes):
    """Another: none flows through the variance."""
    deviation = x - x.mean(axes, keepdims=True)
    variance = jax.lax.stop_gradient((deviation**2).mean(axes, keepdims=True))
    return deviation / jnp.sqrt(variance + EPSILON)


def in_every_mode(function, axes):
    """Values, derivatives forward and backward, and backward over both."""

    def objective(x):
        return (jnp.sin(function(x, axes)) * W).sum()

    def compute(x):
        value, forward = jax.jvp(lambda x: function(x, axes), (x,), (V,))
        backward = jax.grad(objective)
        return {
            "value": value,
            "forward": forward,
            "backward": backward(x),
            "backward, backward": jax.grad(lambda x: (backward(x) * V).sum())(x),
            "forward, backward": jax.jvp(backward, (x,), (V,))[1],
        }

    return jax.jit(compute)(X)


@pytest.mark.parametrize("axes", [(-1,), (0, 2), (0, 1, 2)])
def test_standardise_is_its_definition_in_every_mode(axes):
    got = in_every_mode(lambda x, axes: norms.standardise(x, axes, EPSILON), axes)
    expected = in_every_mode(definition, axes)
    for mode, array in expected.items():
        np.testing.assert_allclose(got[mode], array, atol=2e-5, err_msg=mode)
    for wrong in (without_mean, without_variance):
        derivatives = in_every_mode(wrong, axes)
        np.testing.assert_allclose(got["value"], derivatives.pop("value"), atol=2e-5)
        for mode, array in derivatives.items():
            assert np.abs(got[mode] - array).max() > 1e-2, mode
