"""Files as the authors of VideoMAE and of VideoPrism publish them, against transformers' names."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from rstg_jax.convert import torch as convert_torch
from rstg_jax.convert import torch_files
from rstg_jax.convert.torch_names import ARCHS
from rstg_jax.errors import UserError
from tests import zoo
from tests.models import test_videoprism, test_vit

# Names of transformers -> of MCG-NJU/VideoMAE, `modeling_finetune.py`.
VIDEOMAE = {
    r"^videomae\.": "",
    r"^embeddings\.patch_embeddings\.projection": "patch_embed.proj",
    r"^encoder\.layer\.(\d+)\.layernorm_before": r"blocks.\1.norm1",
    r"^encoder\.layer\.(\d+)\.layernorm_after": r"blocks.\1.norm2",
    r"^encoder\.layer\.(\d+)\.attention\.output\.dense": r"blocks.\1.attn.proj",
    r"^encoder\.layer\.(\d+)\.attention\.attention\.query\.bias": r"blocks.\1.attn.q_bias",
    r"^encoder\.layer\.(\d+)\.attention\.attention\.value\.bias": r"blocks.\1.attn.v_bias",
    r"^encoder\.layer\.(\d+)\.attention\.attention\.(q)_bias": r"blocks.\1.attn.q_bias",
    r"^encoder\.layer\.(\d+)\.attention\.attention\.(v)_bias": r"blocks.\1.attn.v_bias",
    r"^encoder\.layer\.(\d+)\.intermediate\.dense": r"blocks.\1.mlp.fc1",
    r"^encoder\.layer\.(\d+)\.output\.dense": r"blocks.\1.mlp.fc2",
    r"^layernorm": "norm",
    r"^classifier": "head",
}


def authors_videomae(state):
    """A state dict of the authors: queries, keys and values are one matrix."""
    found, parts = {}, {}
    for name, value in state.items():
        for pattern, replacement in VIDEOMAE.items():
            name = re.sub(pattern, replacement, name)
        match = re.fullmatch(
            r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.weight", name
        )
        if match:
            parts.setdefault(match[1], {})[match[2]] = value
        else:
            found[name] = value
    for number, matrices in parts.items():
        qkv = [matrices[part] for part in ("query", "key", "value")]
        found[f"blocks.{number}.attn.qkv.weight"] = np.concatenate(qkv)
    return found


def test_videomae():
    found = test_vit.arch("videomae")
    state = zoo.weights(test_vit.golden("videomae"))
    theirs = authors_videomae(state)
    assert {name for name in theirs if not name.startswith("blocks.")} == {
        *("patch_embed.proj.weight", "patch_embed.proj.bias", "fc_norm.weight", "fc_norm.bias"),
        *("head.weight", "head.bias"),
    }
    assert {name[9:] for name in theirs if name.startswith("blocks.0.")} == {
        *("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"),
        *("attn.qkv.weight", "attn.q_bias", "attn.v_bias", "attn.proj.weight", "attn.proj.bias"),
        *("mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias"),
    }
    authors = dataclasses.replace(found, names=ARCHS["mcg_videomae_b"].names)
    wanted = convert_torch.convert(state, found)
    got = convert_torch.convert({f"module.{k}": v for k, v in theirs.items()}, authors)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)

    more = {**theirs, "blocks.0.attn.k_bias": np.zeros(48)}
    del more["head.bias"]
    message = r"missing classifier\.bias; unused .*attention\.attention\.k_bias"
    with pytest.raises(UserError, match=message):
        convert_torch.convert(more, authors)


def test_pretrained_videomae():
    """The decoder is left out."""
    fields = {**test_vit.SMALL["videomae"], "final_norm": True}
    small = test_vit.encoder("videomae", **fields)
    state = zoo.weights(test_vit.golden("videomae"))
    kept = {k: v for k, v in state.items() if not k.startswith(("classifier", "fc_norm"))}
    norm = {"layernorm.weight": np.arange(48.0), "layernorm.bias": np.arange(48.0)}
    theirs = {f"encoder.{k}": v for k, v in authors_videomae({**kept, **norm}).items()}
    extra = {"mask_token": np.ones((1, 1, 4)), "encoder_to_decoder.weight": np.ones((4, 48))}
    extra |= {"decoder.blocks.0.norm1.weight": np.ones(4), "decoder.head.bias": np.ones(4)}
    authors = dataclasses.replace(small, names=ARCHS["mcg_videomae_b_encoder"].names)
    got = convert_torch.convert({**theirs, **extra}, authors)
    wanted = convert_torch.convert({**kept, **norm}, small)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


HEADS, WIDTH = test_videoprism.SMALL["num_heads"], test_videoprism.SMALL["width"]


def authors_videoprism(state):
    """The authors' arrays: blocks stacked, kernels `[in out]`, heads an axis of their own."""
    found = {}
    stacked = {}
    for name, value in state.items():
        name = re.sub(r"^\w*model\.", "", name)
        if match := re.fullmatch(r"(spatial|temporal)_layers\.(\d+)\.(.+)\.(weight|bias)", name):
            kind, number, layer, leaf = match.groups()
            path, row = of_block(layer, leaf, value)
            path = f"params/{kind}_encoder/transformers_stack/x_layers/{path}"
            stacked.setdefault(path, {})[int(number)] = row
        elif match := re.fullmatch(r"(spatial|temporal)_embeddings\.position_embeddings", name):
            found[f"params/{match[1]}_pos_emb/emb_var"] = value.reshape(-1, WIDTH)
        elif "projection" in name:
            leaf = "kernel" if name.endswith("weight") else "bias"
            if leaf == "kernel":  # [out c 1 h w] -> [h*w*c out]
                value = value.reshape(WIDTH, 3, *value.shape[-2:]).transpose(2, 3, 1, 0)
                value = value.reshape(-1, WIDTH)
            found[f"params/patch_projection/linear/{leaf}"] = value
        else:
            layer, leaf = name.split(".")
            kind = {"layernorm1": "spatial", "layernorm2": "temporal"}[layer]
            found[f"params/{kind}_ln/{'scale' if leaf == 'weight' else leaf}"] = value
    for path, rows in stacked.items():
        found[path] = np.stack([rows[number] for number in range(len(rows))])
    return found


def of_block(layer, leaf, value):
    if layer.startswith("layernorm"):
        path = "layer_norm" if layer.endswith("before") else "ff_layer/layer_norm"
        return f"{path}/{'scale' if leaf == 'weight' else leaf}", value
    if layer.startswith("mlp"):
        path = f"ff_layer/ffn_layer{layer[-1]}/linear"
        return (f"{path}/kernel", value.T) if leaf == "weight" else (f"{path}/bias", value)
    part = layer.rpartition(".")[2]
    heads = (HEADS, WIDTH // HEADS)
    if part == "o_proj":
        weight = value.reshape(WIDTH, *heads) if leaf == "weight" else value
        return f"self_attention/post/{leaf[0]}", weight
    name = {"q": "query", "k": "key", "v": "value"}[part[0]]
    if leaf == "bias":
        return f"self_attention/{name}/b", value.reshape(heads)
    return f"self_attention/{name}/w", value.T.reshape(WIDTH, *heads)


def test_videoprism_npz(tmp_path):
    found = ARCHS["videoprism_b_encoder"]
    small = dataclasses.replace(
        found, backbone=dataclasses.replace(found.backbone, **test_videoprism.SMALL)
    )
    state = zoo.weights(test_videoprism.golden())
    theirs = authors_videoprism(state)
    np.savez(tmp_path / "model.npz", **theirs)
    got = convert_torch.convert(torch_files.read(tmp_path / "model.npz"), small)
    wanted = convert_torch.convert(state, small)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)

    # What the authors' layers compute with these arrays, in their own words.
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, WIDTH))
    block = got["params"]["backbone"]["temporal1"]["attention"]
    stack = "params/temporal_encoder/transformers_stack/x_layers/self_attention"
    w, b = theirs[f"{stack}/key/w"][1], theirs[f"{stack}/key/b"][1]
    one = np.einsum("ND,DKH->NKH", x, w) + b
    two = x @ block["key"]["kernel"] + block["key"]["bias"]
    np.testing.assert_allclose(two, one.reshape(5, -1), rtol=1e-5, atol=1e-6)
    w, b = theirs[f"{stack}/post/w"][1], theirs[f"{stack}/post/b"][1]
    one = np.einsum("BNH,DNH->BD", x.reshape(5, HEADS, -1), w) + b
    two = x @ block["out"]["kernel"] + block["out"]["bias"]
    np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-6)
    side = small.backbone.patch
    patch = rng.normal(size=(side, side, 3))
    one = patch.reshape(-1) @ theirs["params/patch_projection/linear/kernel"]
    kernel = got["params"]["backbone"]["embed"]["kernel"]
    two = np.einsum("hwc,hwcd->d", patch, kernel[0])
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)
    scale = theirs["params/spatial_ln/scale"] + 1  # direct_scale is False
    np.testing.assert_array_equal(got["params"]["backbone"]["spatial_norm"]["scale"], scale)

    del theirs["params/temporal_pos_emb/emb_var"]
    theirs["params/text_encoder/cls_emb"] = np.zeros(3)
    theirs[f"{stack}/key/b"] = np.float32(0)
    message = r"missing temporal_embeddings.*; unused .*key\.b.*; unused text_encoder\.cls_emb"
    with pytest.raises(UserError, match=message):
        convert_torch.convert(theirs, small)


def test_a_damaged_npz(tmp_path):
    file = tmp_path / "model.npz"
    file.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match=r"model\.npz is not a whole \.npz file of arrays"):
        torch_files.read(file)
    np.savez(file, a=np.array([{}], object))
    with pytest.raises(UserError, match=r"model\.npz is not a whole \.npz file of arrays"):
        torch_files.read(file)
