"""Networks on segments of a video against their authors' code, with mistakes that must be noticed.

The numbers are those of public PyTorch code with random weights, see tests/golden/README.md.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rstg_jax.convert import torch as convert_torch
from rstg_jax.convert.torch_names import ARCHS
from rstg_jax.errors import UserError
from rstg_jax.models import classifier as models
from rstg_jax.models.backbones import resnet3d
from tests import zoo

TOLERANCE = 1e-5  # float32 noise is about 1e-6
MISTAKE = 1e-3  # what a wrong field changes at least
GOLDENS = {"tsm_r50_8f_224": "mit_tsm_r50", "tsm_r101_4f_112": "mit_tsm_r101"}


@functools.cache
def golden(name):
    """The numbers of another network, the clip that it saw, and its weights as our variables."""
    numbers, arch = zoo.load(f"zoo_{name}"), ARCHS[GOLDENS[name]]
    return numbers, zoo.video(numbers), convert_torch.convert(zoo.weights(numbers), arch)


def run(arch, variables, video):
    """Logits `[classes]` of the clip and what the model returns beside them."""
    classes = len(variables["params"]["classifier"]["bias"])
    module = models.build(convert_torch.model_config(arch), classes)
    logits, out = jax.jit(module.apply)(variables, video)
    return logits[0], out


def place_of(key, backbone):
    """Our place of a mean in a golden, such as "mean/layer1"."""
    stage = int(key[-1]) + 1
    return f"res{stage}.{backbone.depths[stage - 2] - 1}"


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDENS)
def test_same_logits_as_the_other_network(name):
    numbers, video, variables = golden(name)
    logits, _ = run(ARCHS[GOLDENS[name]], variables, video)
    deviation = zoo.deviation(logits, numbers["out/logits"])
    print(f"{name} logits: {deviation:.2g}")
    assert deviation < TOLERANCE


def test_same_maps_as_tsm():
    name = "tsm_r101_4f_112"
    numbers, video, variables = golden(name)
    backbone = ARCHS[GOLDENS[name]].backbone
    places = {place_of(key, backbone): key for key in ("mean/layer1", "mean/layer2")}
    found = zoo.means(backbone, variables, video, places)
    for place, key in places.items():
        deviation = zoo.deviation(found[place], numbers[key])
        print(f"{name} {place}: {deviation:.2g}")
        assert deviation < TOLERANCE


@pytest.mark.parametrize("wrong", [{"shift": 0}, {"shift": 4}, {"shift_every": 1}])
def test_wrong_shifts_are_noticed(wrong):
    name = "tsm_r101_4f_112"
    numbers, video, variables = golden(name)
    backbone = dataclasses.replace(ARCHS[GOLDENS[name]].backbone, **wrong)
    place = place_of("mean/layer1", backbone)
    found = zoo.means(backbone, variables, video, [place])[place]
    assert zoo.deviation(found, numbers["mean/layer1"]) > MISTAKE


def test_the_first_channels_come_from_the_next_frame():
    x = np.arange(2 * 3 * 8).reshape(2, 3, 1, 1, 8).astype(np.float32)
    found = np.asarray(resnet3d.shifted(jnp.asarray(x), 4))
    for t in range(3):
        following = x[:, t + 1] if t < 2 else np.zeros_like(x[:, 0])
        previous = x[:, t - 1] if t > 0 else np.zeros_like(x[:, 0])
        np.testing.assert_array_equal(found[:, t, ..., :2], following[..., :2])
        np.testing.assert_array_equal(found[:, t, ..., 2:4], previous[..., 2:4])
        np.testing.assert_array_equal(found[:, t, ..., 4:], x[:, t, ..., 4:])


def test_bad_input():
    with pytest.raises(UserError, match=r"shift=1 must be 0 \(none\) or at least 2"):
        resnet3d.tsm(shift=1)
    with pytest.raises(UserError, match="pool2 and shift_every must be at least 1"):
        resnet3d.tsm(shift_every=0)
