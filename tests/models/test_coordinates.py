"""The backbone without weights, against sums over single cells."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rstg_jax.data import object_maps
from rstg_jax.errors import UserError
from rstg_jax.models.backbones import CoordinatesConfig


def test_means_over_a_map_are_number_and_place_of_its_objects():
    places = np.array([[[0, 0], [255, 1785]], [[500, 300], [1020, 510]]])  # [t n 2]
    maps = object_maps.draw(np, places, np.array([0, 1]), 3, 8)[None]
    module = CoordinatesConfig().build(jnp.float32, "backbone")
    assert not module.init(jax.random.key(0), maps)
    features = np.asarray(module.apply({}, maps))
    mean = features.mean((0, 2, 3)).reshape(2, 3, 3)  # [t, mass row column, channel]
    np.testing.assert_allclose(mean[:, 0], [[1, 1, 0]] * 2, atol=0.01)
    expected = places / (255 * 7 / 2) - 1
    np.testing.assert_allclose(mean[:, 1:, :2], np.swapaxes(expected, 1, 2), atol=0.01)
    assert not mean[..., 2].any()
    low = CoordinatesConfig().build(jnp.bfloat16, "backbone").apply({}, maps)
    assert low.dtype == jnp.bfloat16


def test_there_is_no_place_inside():
    with pytest.raises(UserError, match="no place 'conv0'"):
        CoordinatesConfig().resolve("conv0")
