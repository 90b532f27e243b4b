"""Blocks at any place of any backbone, heads and what cannot be combined."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rstg_jax.errors import UserError
from rstg_jax.models import classifier as models
from rstg_jax.models.backbones.resnet3d import ResNet3DConfig
from rstg_jax.models.backbones.simple_cnn import SimpleCNN, SimpleCNNConfig
from rstg_jax.models.config import ModelConfig
from rstg_jax.models.heads import GlobalPooling, NodePooling, ResNet3DHead, RNNHead
from rstg_jax.rstg import presets
from rstg_jax.rstg.block import RSTG, to_map
from rstg_jax.rstg.recurrent_cells import FrameRNN
from rstg_jax.rstg.residual import MapBranch, VectorBranch
from rstg_jax.training import steps

RESNET = ResNet3DConfig(
    depths=(1, 2, 1, 1),
    width=4,
    stem_kernel=(3, 3, 3),
    pool1_stride=0,
    pool2=1,
    input_mean=(100.0,),
    input_scale=(60.0,),
)
CNN = SimpleCNNConfig(
    features=(4, 6),
    kernels=(3, 3),
    strides=(2, 2),
    padding="SAME",
    max_pool=False,
    input_mean=100.0,
    input_scale=60.0,
)
BLOCK = presets.modern(iterations=1, dim=8, scales=(2, 1))
VIDEO = np.random.default_rng(0).integers(0, 256, (2, 3, 36, 28, 1)).astype(np.uint8)


def drawn(config: ModelConfig, seed: int = 1):
    """The model with random weights; drawn by NumPy, which compiles nothing."""
    module, rng = models.build(config, 5), np.random.default_rng(seed)
    shapes = jax.eval_shape(module.init, jax.random.key(0), VIDEO)
    return module, jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * np.abs(rng.normal(size=leaf.shape)), jnp.float32), shapes
    )


def without(variables: dict, name: str) -> dict:
    return {
        kind: {k: v for k, v in tree.items() if not k.startswith(name)}
        for kind, tree in variables.items()
    }


@pytest.mark.parametrize(("norm", "dim"), [("token", 6), ("clip", 8), ("none", 6)])
def test_a_branch_is_the_identity_at_the_start(norm, dim):
    """Exactly so, on maps that are not square, projected or not; and its gain learns."""
    block = dataclasses.replace(BLOCK, dim=dim)
    features = jax.random.normal(jax.random.key(0), (2, 3, 5, 4, 8))
    vectors = features.mean((2, 3))
    for branch, inputs in (
        (MapBranch(block, norm), (features,)),
        (VectorBranch(block, norm), (features, vectors)),
    ):
        variables = jax.jit(branch.init, static_argnames="train")(
            jax.random.key(1), *inputs, train=False
        )

        def apply(variables, branch=branch, inputs=inputs):
            return branch.apply(variables, *inputs, train=False)[0]

        np.testing.assert_array_equal(jax.jit(apply)(variables), inputs[-1])
        gradient = jax.jit(jax.grad(lambda v, f=apply: (f(v) ** 3).sum()))(variables)["params"]
        assert np.abs(gradient["scale"]).min() > 0
        assert all(np.abs(leaf).max() == 0 for leaf in jax.tree.leaves(gradient["block"]))


def test_a_network_with_new_branches_is_the_network_without():
    places = ("res2", "res3.0", "res3.1", "res4", "res5", "final")
    config = ModelConfig(RESNET, BLOCK, places, GlobalPooling())
    module, variables = drawn(config)
    for place in config.resolved:
        name = models.block_name(place)
        branch = variables["params"][name]
        variables["params"][name] = branch | {"scale": jnp.zeros_like(branch["scale"])}
    logits, out = jax.jit(module.apply)(variables, VIDEO)
    assert set(out["graphs"]) == set(config.resolved)
    plain = models.build(dataclasses.replace(config, rstg_at=()), 5)
    expected, _ = jax.jit(plain.apply)(without(variables, "rstg_"), VIDEO)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(logits, expected, rtol=1e-5)


@pytest.mark.parametrize("backbone", [RESNET, CNN], ids=["resnet", "cnn"])
def test_a_branch_adds_its_block_to_the_map(backbone):
    """Step by step by hand: features up to the place, block, to-map, norm, gain."""
    place = backbone.places[-1]
    config = ModelConfig(backbone, BLOCK, (place,), GlobalPooling())
    module, variables = drawn(config)
    name = models.block_name(place)
    branch = variables["params"][name]
    gain = jnp.linspace(-1, 1, len(branch["scale"]))
    bias = jnp.linspace(2, 0, len(gain))
    variables["params"][name] = branch | {"scale": gain, "norm": {"bias": bias}}
    _, out = jax.jit(module.apply)(variables, VIDEO)
    plain = models.build(dataclasses.replace(config, rstg_at=()), 5)
    _, before = jax.jit(plain.apply)(without(variables, "rstg_"), VIDEO)
    apply = jax.jit(RSTG(BLOCK, project_back=True).apply)
    nodes = apply({"params": branch["block"]}, before["features"]).nodes
    added = np.asarray(to_map(nodes, BLOCK.scales, before["features"].shape[2:4]), np.float64)
    added = (added - added.mean(-1, keepdims=True)) / np.sqrt(added.var(-1, keepdims=True) + 1e-6)
    expected = before["features"] + gain * (added + bias)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(out["features"], expected, atol=2e-5 * largest)


def test_every_place_has_its_own_weights_and_projection():
    config = ModelConfig(RESNET, BLOCK, ("res2", "res3.0", "res4.0", "final"), GlobalPooling())
    _, variables = drawn(config)
    blocks = {k: v["block"] for k, v in variables["params"].items() if k.startswith("rstg_")}
    assert set(blocks) == {"rstg_res2_0", "rstg_res3_0", "rstg_res4_0", "rstg_final"}
    shapes = {name: block["project_in"]["kernel"].shape for name, block in blocks.items()}
    assert shapes["rstg_res2_0"] == (16, 8) and shapes["rstg_final"] == (128, 8)
    first, second = blocks["rstg_res2_0"], blocks["rstg_res3_0"]
    kernels = [b["space"]["send"]["second"]["kernel"] for b in (first, second)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.1
    same = dataclasses.replace(BLOCK, dim=16)  # as wide as res2: nothing to project
    _, variables = drawn(dataclasses.replace(config, rstg=same, rstg_at=("res2",)))
    assert "project_in" not in variables["params"]["rstg_res2_0"]["block"]
    assert "project_out" not in variables["params"]["rstg_res2_0"]["block"]


@pytest.mark.parametrize("size", [(64, 64), (49, 70)])
def test_any_frame_size_fits_one_set_of_weights(size):
    config = ModelConfig(RESNET, BLOCK, ("res2", "res4", "final"), GlobalPooling())
    module, variables = drawn(config)
    video = np.random.default_rng(1).integers(0, 256, (1, 2, *size, 1)).astype(np.uint8)
    logits, out = jax.jit(module.apply)(variables, video)
    rows, columns = ((side + 7) // 8 for side in size)  # stem, res3 and res4 halve each side
    assert out["features"].shape[2:4] == (rows, columns)
    assert np.isfinite(logits).all()


def test_windows_of_the_official_pool():
    head = GlobalPooling(pool_window=3).build("head")
    features = np.random.default_rng(0).normal(size=(2, 2, 5, 4, 3)).astype(np.float32)
    windows = [
        features[:, :, r : r + 3, c : c + 3].mean((2, 3)) for r in range(3) for c in range(2)
    ]
    np.testing.assert_allclose(
        head.apply({}, jnp.asarray(features)), np.mean(windows, 0), atol=1e-6
    )
    with pytest.raises(UserError, match="larger than the feature map of 5x4"):
        GlobalPooling(pool_window=5).build("head").apply({}, jnp.asarray(features))


def test_mean_and_lstm():
    config = ModelConfig(CNN, BLOCK, (), RNNHead("mean", "gru", 7), readout="last")
    module, variables = drawn(config)
    logits, out = jax.jit(module.apply)(variables, VIDEO)
    means = np.asarray(out["features"]).mean((2, 3))  # [b t c]
    cell = FrameRNN(7, "gru", 1.0)
    weights = {"params": variables["params"]["head"]["gru"]}
    outputs = jax.jit(cell.apply)(weights, np.swapaxes(means, 0, 1)[None])[0][0, -1]
    classifier = variables["params"]["classifier"]
    expected = outputs @ classifier["kernel"] + classifier["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-5)
    assert "nodes" not in out


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"cell": "window", "dim": 7}, "dim 7 is no multiple of 4, the heads of cell 'window'"),
        ({"dim": 0}, "dim 0 must be at least 1"),
        ({"lags": (0, 1)}, r"lags \(0, 1\) must be different numbers of frames, 1 or more"),
        ({"lags": (1, 2, 3), "dim": 2}, "3 lags are more than the 2 features"),
        ({"memory_span": 0}, "memory_span 0 must be at least 1"),
        ({"kernel": 1}, "kernel=1 must be at least 2"),
    ],
)
def test_impossible_recurrent_heads_are_refused(fields, sentence):
    with pytest.raises(UserError, match=sentence):
        RNNHead(**fields)


def test_a_recurrent_head_looks_back_as_far_as_it_is_told():
    maps = np.random.default_rng(0).normal(size=(1, 6, 2, 2, 4)).astype(np.float32)
    module = RNNHead("mean", "window", 8, memory_span=2).build("head")
    variables = jax.jit(module.init)(jax.random.key(0), maps)
    gradient = jax.jit(jax.grad(lambda maps: module.apply(variables, maps)[0, 4].sum()))(maps)
    assert np.flatnonzero(np.abs(gradient).sum((0, 2, 3, 4))).tolist() == [2, 3, 4]


@pytest.mark.parametrize(("non_local", "reach"), [((), 2), ((0,), 4)])
def test_residual_convolutions_over_space_and_time(non_local, reach):
    """Each block looks one frame farther, a non-local block at all of them."""
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(1, 9, 9, 9, 3)).astype(np.float32)
    module = ResNet3DHead(2, 4, non_local).build("head")
    shapes = jax.eval_shape(module.init, jax.random.key(0), maps)
    variables = jax.tree.map(lambda leaf: np.abs(0.1 * rng.normal(size=leaf.shape)), shapes)
    gradient = jax.jit(jax.grad(lambda maps: module.apply(variables, maps)[0, 4].sum()))(maps)
    frames = np.flatnonzero(np.abs(gradient).sum((0, 2, 3, 4)))
    assert frames.tolist() == list(range(4 - reach, 4 + reach + 1))


def test_non_local_blocks_that_are_not_there():
    with pytest.raises(UserError, match="non_local=2: the head has blocks 0 to 1"):
        ResNet3DHead(2, 4, (2,))


def test_a_convolution_of_the_whole_map():
    maps = np.random.default_rng(0).normal(size=(2, 3, 5, 4, 6)).astype(np.float32)
    head = RNNHead("conv", "gru", 7, kernel=8).build("head")
    params = jax.jit(head.init)(jax.random.key(0), maps)["params"]
    kernel = params["conv0"]["kernel"]
    assert kernel.shape == (5, 4, 6, 7) and "conv1" not in params
    np.testing.assert_array_equal(kernel, np.broadcast_to(kernel[2, 3], kernel.shape))
    params["conv0"]["kernel"] = kernel + maps[0, 0, ..., None]  # any other one
    vectors = np.maximum(np.einsum("bthwc,hwcd->tbd", maps, params["conv0"]["kernel"]), 0)
    cell = FrameRNN(7, "gru", 1.0)
    wanted = jax.jit(cell.apply)({"params": params["gru"]}, vectors[None])[0][0]
    found = jax.jit(head.apply)({"params": params}, maps)
    np.testing.assert_allclose(np.swapaxes(found, 0, 1), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", [False, True])
def test_convolutions_down_to_a_vector(norm):
    head = RNNHead("conv", "gru", 7, norm)
    maps = np.random.default_rng(0).normal(size=(2, 3, 9, 7, 6)).astype(np.float32)
    _, variables = jax.jit(head.build("head").init_with_output)(jax.random.key(0), maps)
    params = variables["params"]
    kernels = [params[f"conv{i}"]["kernel"] for i in range(4)]
    assert [k.shape for k in kernels] == [(3, 3, 6, 7), (3, 3, 7, 7), (3, 3, 7, 7), (3, 1, 7, 7)]

    x = maps
    for kernel in kernels:  # 7x5, 5x3, 3x1, one cell
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], (2, 3))
        x = np.maximum(np.einsum("bthwcyx,yxcd->bthwd", windows, kernel), 0)
        if norm:
            centred = x - x.mean(-1, keepdims=True)
            x = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-6)
    cell = FrameRNN(7, "gru", 1.0)
    vectors = np.swapaxes(x[:, :, 0, 0], 0, 1)[None]  # [n t b c]
    wanted = jax.jit(cell.apply)({"params": params["gru"]}, vectors)[0][0]
    found = jax.jit(head.build("head").apply)(variables, maps)
    np.testing.assert_allclose(found, np.swapaxes(wanted, 0, 1), rtol=1e-4, atol=1e-5)
    other = dataclasses.replace(head, norm=not norm).build("head")
    ones = {f"norm{i}": {"scale": jnp.ones(7), "bias": jnp.zeros(7)} for i in range(4)}
    control = jax.jit(other.apply)({"params": {**ones, **params}}, maps)
    assert np.abs(control - found).max() > 0.01


@pytest.mark.parametrize(
    ("choices", "complaint"),
    [
        ({"rstg_at": ("res9",)}, "no place 'res9' in the backbone; use 'final', res2"),
        ({"rstg_at": ("res3", "res3.0")}, "names a place twice"),
        ({"head": NodePooling(), "rstg_at": ("res3",)}, "reads a block at rstg_at 'final'"),
        ({"head": RNNHead(), "rstg_at": ("final",)}, "no use for a block at 'final'"),
        ({"backbone": CNN, "rstg_at": ("conv2",)}, "use 'final', conv0, conv1"),
    ],
)
def test_what_cannot_be_is_said(choices, complaint):
    settings = {"backbone": RESNET, "rstg": BLOCK, "head": GlobalPooling()}
    with pytest.raises(UserError, match=complaint):
        ModelConfig(**settings | choices)


@pytest.mark.parametrize(
    ("backbone", "field"),
    [
        *((CNN, name) for name in ("features", "kernels", "strides")),
        *((RESNET, name) for name in ("stem_kernel", "stem_stride", "spatial_strides")),
        *((RESNET, name) for name in ("temporal_kernels", "temporal_strides", "pool1_padding")),
    ],
)
def test_sizes_below_one_are_refused(backbone, field):
    def negative(value):
        return tuple(map(negative, value)) if isinstance(value, tuple) else -1

    with pytest.raises(UserError, match=r"must be at least 1|cannot be negative"):
        dataclasses.replace(backbone, **{field: negative(getattr(backbone, field))})


@pytest.mark.parametrize("average", ["logits", "softmax", "max"])
def test_views_become_one_as_in_a_plain_loop(average):
    """And not as by either of the other two ways, however many views are computed at once."""
    config = ModelConfig(CNN, rstg_at=(), head=GlobalPooling(), view_average=average)
    module = models.build(config, 5)
    video = np.random.default_rng(0).integers(0, 256, (2, 4, 2, 12, 12, 1))
    video = (video * np.array([0.1, 0.4, 0.7, 1]).reshape(4, 1, 1, 1, 1)).astype(np.uint8)
    variables = jax.jit(module.init)(jax.random.key(0), video[:, 0])
    apply = jax.jit(module.apply)
    single = [np.asarray(apply(variables, video[:, v])[0]) for v in range(4)]
    wanted = {
        "logits": np.mean(single, axis=0),
        "softmax": np.log(np.mean([jax.nn.softmax(logits) for logits in single], axis=0)),
        "max": np.full((2, 5), -np.inf),
    }
    for logits in single:
        for place in np.ndindex(2, 5):
            wanted["max"][place] = max(wanted["max"][place], logits[place])
    # PySlowFast takes the maximum of sigmoids.
    sigmoids = np.max([jax.nn.sigmoid(logits) for logits in single], axis=0)
    np.testing.assert_allclose(jax.nn.sigmoid(wanted["max"]), sigmoids, rtol=1e-6)
    for max_clips in (1, 4, 8):  # one view at a time, two, all
        logits = steps.classify(module, variables, {"video": video}, average, max_clips)
        np.testing.assert_allclose(logits, wanted[average], rtol=1e-4, atol=1e-5)
        for other in wanted.keys() - {average}:
            other_way = jax.nn.softmax(wanted[other])
            assert np.abs(jax.nn.softmax(logits) - other_way).max() > 1e-2

    places = np.random.default_rng(1).permutation(20).reshape(4, 5)  # views are exchanged, too
    scores = np.stack(single, axis=1)
    if average == "softmax":
        scores = np.asarray(jax.nn.log_softmax(scores))
    scores = np.stack([[row.ravel()[place] for place in places] for row in scores])
    wanted = {
        "logits": scores.mean(1),
        "max": scores.max(1),
        "softmax": np.log(np.exp(scores).mean(1)),
    }
    logits = steps.classify(module, variables, {"video": video}, average, 4, places)
    np.testing.assert_allclose(logits, wanted[average], rtol=1e-4, atol=1e-5)


def test_a_still_background_is_subtracted():
    keep = dataclasses.replace(CNN, input_mean=0.0)
    subtract = dataclasses.replace(keep, subtract_mean_frame=True)
    rng = np.random.default_rng(0)
    moving = rng.normal(size=(2, 3, 12, 12, 1)) * 30
    moving -= moving.mean(axis=1, keepdims=True)
    background = rng.uniform(0, 255, size=(2, 1, 12, 12, 1))
    variables = jax.jit(SimpleCNN(keep).init)(jax.random.key(0), np.float32(moving))
    expected = jax.jit(SimpleCNN(keep).apply)(variables, np.float32(moving))
    got = jax.jit(SimpleCNN(subtract).apply)(variables, np.float32(moving + background))
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_a_resnet_does_not_depend_on_the_lowering():
    """Accelerators convolve over three axes at once, CPUs frame by frame."""
    backbone = dataclasses.replace(
        RESNET, non_local=("res3.1",), temporal_strides=(1, 2, 1, 1), stem_stride=(2, 2, 2)
    )
    config = ModelConfig(backbone, BLOCK, (), GlobalPooling())
    _, variables = drawn(config)
    logits = []
    for lowering in ("xla", "matmul"):
        lowered = dataclasses.replace(backbone, lowering=lowering)
        module = models.build(dataclasses.replace(config, backbone=lowered), 5)
        logits.append(jax.jit(module.apply)(variables, VIDEO)[0])
    assert np.abs(logits[0]).max() > 0.1
    np.testing.assert_allclose(logits[0], logits[1], rtol=1e-4)


@pytest.mark.parametrize("video", [VIDEO[0], VIDEO[..., 0]], ids=["one clip", "no channels"])
def test_videos_of_other_axes_are_refused(video):
    module = models.build(ModelConfig(CNN, BLOCK), 5)
    with pytest.raises(UserError, match=r"is not \[batch, frame, height, width, channel\]"):
        jax.eval_shape(module.init, jax.random.key(0), video)


def test_frames_of_other_channels_or_another_size_are_named():
    backbone = dataclasses.replace(CNN, position_embedding=True)
    module = models.build(ModelConfig(backbone, BLOCK), 5)
    variables = jax.eval_shape(module.init, jax.random.key(0), VIDEO)
    jax.eval_shape(module.apply, variables, VIDEO[:1, :1])  # other clips of these frames
    colour = np.concatenate([VIDEO] * 3, axis=-1)
    for video, weight in [(colour, "conv0"), (VIDEO[:, :, :-8], "position_embedding")]:
        with pytest.raises(UserError, match=f"does not fit the weights.*{weight}.*shape") as caught:
            jax.eval_shape(module.apply, variables, video)
        assert str(list(video.shape)) in str(caught.value) and "\n" not in str(caught.value)
