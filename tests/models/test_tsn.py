"""Networks on segments of a video against their authors' code, with mistakes that must be noticed.

The numbers are those of public PyTorch code with random weights, see tests/golden/README.md.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rstg_jax.convert import torch as convert_torch
from rstg_jax.convert.torch_names import ARCHS
from rstg_jax.errors import UserError
from rstg_jax.models import classifier as models
from rstg_jax.models.backbones import resnet3d
from rstg_jax.models.heads import RelationHead
from tests import zoo

TOLERANCE = 1e-5  # float32 noise is about 1e-6
MISTAKE = 1e-3  # what a wrong field changes at least
TRN = ARCHS["trn_bn_inception"]
GOLDENS = {
    "tsm_r50_8f_224": ARCHS["mit_tsm_r50"],
    "tsm_r101_4f_112": ARCHS["mit_tsm_r101"],
    "trn_3f_224": dataclasses.replace(
        TRN,
        names=dataclasses.replace(TRN.names, head=RelationHead(frames=3)),
        head=RelationHead(frames=3),
        frames=3,
    ),
    "eco_lite_8f_224": ARCHS["eco_lite"],
}


@functools.cache
def golden(name):
    """The numbers of another network, the clip that it saw, and its weights as our variables."""
    numbers, arch = zoo.load(f"zoo_{name}"), GOLDENS[name]
    return numbers, zoo.video(numbers), convert_torch.convert(zoo.weights(numbers), arch)


def run(arch, variables, video):
    """Logits `[classes]` of the clip and what the model returns beside them."""
    classes = len(variables["params"]["classifier"]["bias"])
    module = models.build(convert_torch.model_config(arch), classes)
    logits, out = jax.jit(module.apply)(variables, video)
    return logits[0], out


def places_of(numbers, backbone):
    """Our places of the means in a golden."""
    places = {}
    for key in numbers:
        kind, _, name = key.partition("/")
        if kind == "mean" and name.startswith("layer"):
            stage = int(name[-1]) + 1
            places[f"res{stage}.{backbone.depths[stage - 2] - 1}"] = key
        elif kind == "mean":
            places[name if name.startswith("res") else f"mixed{name}"] = key
    return places


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDENS)
def test_same_logits_as_the_other_network(name):
    numbers, video, variables = golden(name)
    logits, _ = run(GOLDENS[name], variables, video)
    key = "out/logits" if "out/logits" in numbers else "out/all_logits"
    deviation = zoo.deviation(logits, numbers[key])
    print(f"{name} logits: {deviation:.2g}")
    assert deviation < TOLERANCE


@pytest.mark.parametrize("name", ["tsm_r101_4f_112", "eco_lite_8f_224"])
def test_same_maps_as_the_other_network(name):
    numbers, video, variables = golden(name)
    backbone = GOLDENS[name].backbone
    places = places_of(numbers, backbone)
    found = zoo.means(backbone, variables, video, places)
    for place, key in places.items():
        deviation = zoo.deviation(found[place], numbers[key])
        print(f"{name} {place}: {deviation:.2g}")
        assert deviation < TOLERANCE


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("tsm_r101_4f_112", {"shift": 0}),
        ("tsm_r101_4f_112", {"shift": 4}),
        ("tsm_r101_4f_112", {"shift_every": 1}),
        ("eco_lite_8f_224", {"input_mean": (123.0, 117.0, 104.0)}),
    ],
)
def test_wrong_fields_are_noticed(name, wrong):
    numbers, video, variables = golden(name)
    backbone = dataclasses.replace(GOLDENS[name].backbone, **wrong)
    place, key = next(iter(places_of(numbers, backbone).items()))
    found = zoo.means(backbone, variables, video, [place])[place]
    assert zoo.deviation(found, numbers[key]) > MISTAKE


def pooled(numbers):
    """The last map of TRN, whose mean is in the golden, float32 `[1 t 1 1 c]`."""
    return jnp.asarray(numbers["out/pooled"][None, :, None, None])


@functools.cache
def behind_the_trunk():
    """The numbers of TRN with 8 frames, and weights of its head and classifier."""
    numbers = zoo.load("zoo_trn_8f_224")
    state = zoo.weights(numbers, ("new_fc", "consensus"))
    state = TRN.names.prepare(state)

    def layer(*path):
        kernel, bias = (state[TRN.names.of(None, (*path, leaf))] for leaf in ("kernel", "bias"))
        return {"kernel": kernel.T, "bias": bias}

    layers = ("frame", *(f"relation{size}" for size in range(8, 1, -1)))
    return numbers, {name: layer("head", name) for name in layers}, layer("classifier")


def relations(layer, frames, size):
    """By a loop: outputs of the relation of so many frames, by subset; `frames` `[t d]`."""
    return {
        subset: np.maximum(frames[list(subset)].ravel() @ layer["kernel"] + layer["bias"], 0)
        for subset in itertools.combinations(range(len(frames)), size)
    }


def test_relations_of_all_subsets():
    numbers, head, layer = behind_the_trunk()
    head = {"params": head}
    found = TRN.head.build(None).apply(head, pooled(numbers))[0, 0]
    hidden = numbers["out/all_scale_hidden"]
    assert zoo.deviation(found.reshape(hidden.shape), hidden) < TOLERANCE
    logits = found @ layer["kernel"] + layer["bias"]
    deviation = zoo.deviation(logits, numbers["out/all_logits"])
    print(f"trn_8f_224 logits: {deviation:.2g}")
    assert deviation < TOLERANCE
    backwards = TRN.head.build(None).apply(head, pooled(numbers)[:, ::-1])[0, 0]
    assert zoo.deviation(backwards.reshape(hidden.shape), hidden) > 0.01
    other = dataclasses.replace(TRN.head, subsets=4).build(None)
    assert zoo.deviation(other.apply(head, pooled(numbers))[0, 0], found) > 0.01


def test_relations_of_drawn_subsets():
    """Those that the released code drew, by a loop; and those that training draws."""
    numbers, weights, layer = behind_the_trunk()
    frames = np.maximum(numbers["out/features"], 0)
    hidden = {size: relations(weights[f"relation{size}"], frames, size) for size in range(8, 1, -1)}
    released = [
        sum(hidden[size][tuple(subset)] for subset in numbers[f"out/released_subsets/{size}"])
        for size in hidden
    ]
    logits = np.concatenate(released) @ layer["kernel"] + layer["bias"]
    assert zoo.deviation(logits, numbers["out/released_logits"]) < TOLERANCE

    head = dataclasses.replace(TRN.head, dropout_rate=0.0).build(None)
    apply = functools.partial(head.apply, {"params": weights}, pooled(numbers), train=True)
    drawn = set()
    for seed in range(2):
        found = np.asarray(apply(rngs={"dropout": jax.random.key(seed)}))[0, 0].reshape(7, 256)
        assert zoo.deviation(found[0], hidden[8][tuple(range(8))]) < TOLERANCE
        (chosen,) = [
            chosen
            for chosen in itertools.combinations(hidden[7], 3)
            if zoo.deviation(found[1], sum(hidden[7][subset] for subset in chosen)) < TOLERANCE
        ]
        drawn.add(chosen)
    assert len(drawn) == 2


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
    head = RelationHead(frames=8)
    with pytest.raises(UserError, match=r"head\.frames=8, but the last map has 4 frames"):
        head.build(None).init(jax.random.key(0), jnp.ones((1, 4, 1, 1, 2)))
    with pytest.raises(UserError, match="frames of at least 2, dim and subsets of 1"):
        RelationHead(frames=1)
    numbers = zoo.load("zoo_trn_3f_224")
    with pytest.raises(UserError, match=r"no TRN of 8 frames: missing .*_scales\.2"):
        convert_torch.convert(zoo.weights(numbers), TRN)
