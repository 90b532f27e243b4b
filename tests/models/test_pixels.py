"""Normalisation of pixel values against NumPy in float64."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from rstg_jax.errors import UserError
from rstg_jax.models.backbones.pixels import normalise

VIDEO = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16, 1)


def config(mean, scale):
    return types.SimpleNamespace(input_mean=mean, input_scale=scale)


@pytest.mark.parametrize(("mean", "scale"), [(114.75, 57.375), ((20.0,), (60.0,))])
def test_bfloat16_is_rounded_only_once(mean, scale):
    """bfloat16 has no 114.75: a mean rounded to 115 would shift all pixels."""
    exact = (VIDEO.astype(np.float64) - mean) / scale
    got = normalise(VIDEO, config(mean, scale), jnp.bfloat16)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, exact.astype(np.float32).astype(jnp.bfloat16))
    np.testing.assert_allclose(normalise(VIDEO, config(mean, scale), jnp.float32), exact, rtol=2e-7)


def test_a_mean_of_other_channels_is_refused():
    with pytest.raises(UserError, match="input_mean has 3 channels, the video 1"):
        normalise(VIDEO, config((1.0, 2.0, 3.0), (1.0, 1.0, 1.0)), jnp.float32)
