"""MViTv2 against torchvision's, small and with random weights, its names read by the converter.

Each comparison is repeated with a mistake, which must be noticed.
"""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from rstg_jax.convert import mvit_names
from rstg_jax.convert import torch as convert_torch
from rstg_jax.convert.torch_names import ARCHS
from rstg_jax.errors import UserError
from rstg_jax.models import classifier
from rstg_jax.models.backbones import MViTConfig, SimpleCNNConfig
from rstg_jax.models.config import ModelConfig
from rstg_jax.models.heads import ClassToken
from rstg_jax.rstg import presets
from tests import torch_peers
from tests.torch_peers import (
    CLASSES,
    MISTAKE,
    arch,
    arrays,
    clips,
    compare,
    deviation,
    logits_of,
    normalised,
    ours,
    random_transformer,
    torch,
)

SMALL = {"depths": (1, 2, 1), "width": 6, "kv_stride": 4}


@pytest.fixture(scope="module")
def mvit():
    torch_peers.torchvision()
    from torchvision.models.video import mvit

    return mvit


def peer(mvit, config, **flags):
    """torchvision's network of the sizes of ours."""
    widths = [size.width for size in config.blocks]
    settings = [
        mvit.MSBlockConfig(
            num_heads=size.num_heads,
            input_channels=before,
            output_channels=size.width,
            kernel_q=[3, 3, 3],
            kernel_kv=[3, 3, 3],
            stride_q=[1, size.stride, size.stride],
            stride_kv=[1, size.kv_stride, size.kv_stride],
        )
        for size, before in zip(config.blocks, [config.width, *widths], strict=False)
    ]
    flags = {
        "residual_pool": True,
        "residual_with_cls_embed": False,
        "num_classes": CLASSES,
    } | flags
    model = mvit.MViT(
        spatial_size=(config.clip[1],) * 2,
        temporal_size=config.clip[0],
        block_setting=settings,
        rel_pos_embed=True,
        proj_after_attn=True,
        **flags,
    )
    return random_transformer(model)


@pytest.mark.parametrize("side", [32, 44])
def test_torchvision(mvit, side):
    """Sides of 8, 4 and 2 tokens; of 11, 6 and 3, for which it interpolates its tables."""
    found = arch("torchvision_mvit_v2_s", clip=(6, side), **SMALL)
    model = peer(mvit, found.backbone)
    lengths = [len(block.attn.rel_pos_h) for block in model.blocks]
    assert lengths == [2 * n - 1 for n in ((8, 4, 4, 4) if side == 32 else (11, 5, 5, 5))]
    state, video = arrays(model.state_dict()), clips((2, 6, side, side, 3))
    kept = []
    model.norm.register_forward_hook(lambda module, inputs, output: kept.append(output.numpy()))
    x = normalised(video, found)
    wanted = logits_of(model, x)
    features, logits = ours(found, state, video)
    compare(f"torchvision_mvit_v2_s {side} logits", logits, wanted)
    compare(f"torchvision_mvit_v2_s {side} map", features.reshape(2, -1, 24), kept[0][:, 1:])

    for flags in ({"residual_pool": False}, {"residual_with_cls_embed": True}):
        other = peer(mvit, found.backbone, **flags)
        assert deviation(logits, logits_of(other, x)) > MISTAKE
    assert deviation(logits, logits_of(model, x.flip(2))) > MISTAKE  # backwards
    swapped = {
        name: state[name.translate(str.maketrans("hw", "wh")) if "rel_pos" in name else name]
        for name in state
    }
    model.load_state_dict({name: torch.tensor(value) for name, value in swapped.items()})
    assert deviation(logits, logits_of(model, x)) > MISTAKE


def test_pyslowfast_names():
    """The same network: each tensor of torchvision's has a name there, and no other is read."""
    found = arch("torchvision_mvit_v2_s", clip=(4, 16), depths=(1, 1), width=4, kv_stride=2)
    shapes = shapes_of(found)
    names = mvit_names.MViTNames(mvit_names.PYSLOWFAST)
    assert {names.of(found.backbone, path[1:]) for path in shapes} == {
        *("cls_token", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight"),
        *("norm.bias", "head.projection.weight", "head.projection.bias"),
        *("blocks.1.proj.weight", "blocks.1.proj.bias"),
        *(
            f"blocks.{block}.{name}"
            for block in range(2)
            for name in (
                *(f"{layer}.{leaf}" for layer in LAYERS for leaf in ("weight", "bias")),
                *(f"attn.pool_{part}.weight" for part in "qkv"),
                *(f"attn.rel_pos_{axis}" for axis in "thw"),
            )
        ),
    }
    rng = np.random.default_rng(0)
    state, there = {}, {}
    for path, shape in shapes.items():
        theirs = shape[-1:] + shape[-2:-1] + shape[:-2] if len(shape) > 1 else shape
        value = rng.normal(size=theirs).astype(np.float32)
        torchvision, pyslowfast = (x.of(found.backbone, path[1:]) for x in (found.names, names))
        if path[-1] in ("frames", "rows", "columns"):
            value = value.T
        state[torchvision] = value
        there[pyslowfast] = value[None, None] if path[-1] == "class_token" else value
    one = convert_torch.convert(state, found)
    two = convert_torch.convert(
        {f"module.{name}": value for name, value in there.items()},
        dataclasses.replace(found, names=names),
    )
    jax.tree.map(np.testing.assert_array_equal, one, two)


LAYERS = (
    *("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"),
    *("attn.norm_q", "attn.norm_k", "attn.norm_v"),
)


def shapes_of(found):
    module = classifier.build(convert_torch.model_config(found), CLASSES)
    video = np.zeros((1, *found.backbone.clip, found.backbone.clip[1], 3), np.uint8)
    tree = jax.eval_shape(module.init, jax.random.key(0), video)
    return {
        tuple(key.key for key in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def test_the_released_size(mvit):
    """Every tensor of torchvision's network has a place in ours, and ours has no other."""
    with torch.device("meta"):
        model = mvit.mvit_v2_s()
    found = ARCHS["torchvision_mvit_v2_s"]
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    shapes = shapes_of(found)
    names = {found.names.of(found.backbone, path[1:]): shape for path, shape in shapes.items()}
    assert names.keys() == wanted.keys()
    for name, shape in names.items():
        if name.startswith("head"):
            continue  # 400 classes there
        assert sorted(shape) == sorted(wanted[name]), name
    parameters = sum(np.prod(shape) for shape in wanted.values())
    assert parameters == 34_537_744  # as torchvision's page says


def test_a_block_inside_and_one_behind():
    """The token of the clip is none of their business; at first they change nothing."""
    config = MViTConfig(depths=(1, 1), width=4, kv_stride=2, clip=(4, 16))
    assert config.places == ("block0", "block1")
    block = presets.modern(dim=4, scales=(1,), stages=("time",))
    model = ModelConfig(config, rstg=block, rstg_at=("block0", "final"), head=ClassToken())
    alone = dataclasses.replace(model, rstg_at=())
    video = clips((1, 4, 16, 16, 3))
    module, plain = (classifier.build(m, 3) for m in (model, alone))
    variables = jax.jit(module.init)(jax.random.key(0), video)
    run = jax.jit(functools.partial(module.apply, train=False))
    logits, out = run(variables, video)
    assert list(out["graphs"]) == ["block0", "final"]
    assert out["features"].shape == (1, 2, 2, 2, 8)
    params = {k: v for k, v in variables["params"].items() if not k.startswith("rstg")}
    wanted, _ = jax.jit(plain.apply)({"params": params}, video)
    np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-6)
    # A clip of another size than that of the tables.
    shapes = jax.eval_shape(run, variables, clips((1, 6, 24, 20, 3)))
    assert shapes[1]["features"].shape == (1, 3, 3, 3, 8)


def test_bad_input():
    with pytest.raises(UserError, match="must be at least 1"):
        MViTConfig(depths=(1, 0))
    with pytest.raises(UserError, match="no multiple of num_heads"):
        MViTConfig(num_heads=5)
    with pytest.raises(UserError, match="too small for 4 stages"):
        MViTConfig(clip=(16, 24))
    with pytest.raises(UserError, match="a token that SimpleCNNConfig does not have"):
        ModelConfig(SimpleCNNConfig(), rstg_at=(), head=ClassToken())
