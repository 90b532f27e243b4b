"""Files of PySlowFast and video-nonlocal-net, of which no package is a peer: names, and pickles."""

import dataclasses
import pickle
import re

import jax
import numpy as np
import pytest
from flax import traverse_util

from rstg_jax.convert import torch as convert_torch
from rstg_jax.convert import torch_files
from rstg_jax.convert.torch_names import ARCHS
from rstg_jax.errors import UserError
from rstg_jax.models import classifier

SMALL = {"width": 8, "depths": (1, 2, 2, 1)}


def arch(name, **fields):
    found = ARCHS[name]
    return dataclasses.replace(
        found, backbone=dataclasses.replace(found.backbone, **SMALL | fields), frames=8
    )


def state(found, seed=0):
    """An array for every name, in PyTorch's layout."""
    module = classifier.build(convert_torch.model_config(found), 5)
    video = jax.ShapeDtypeStruct((1, found.frames, 224, 224, 3), np.uint8)
    shapes = jax.eval_shape(module.init, jax.random.key(0), video)
    rng = np.random.default_rng(seed)
    out = {}
    for path, leaf in traverse_util.flatten_dict(shapes).items():
        array = rng.normal(size=leaf.shape).astype(np.float32)
        axes = (-1, -2), (0, 1)
        name = found.names.of(found.backbone, path[1:])
        out[name] = np.moveaxis(array, *axes) if array.ndim > 1 else array
    return out


def caffe2(name):
    """PySlowFast's name backwards, as read in published files."""
    module, leaf = name.rsplit(".", 1)
    pathway = "t_" if "pathway1" in module else ""
    rows = [
        (r"s1\.pathway\d_stem\.conv", "conv1"),
        (r"s1\.pathway\d_stem\.bn", "res_conv1_bn"),
        (r"s1_fuse\.conv_f2s", "t_pool1_subsample"),
        (r"s1_fuse\.bn", "t_pool1_subsample_bn"),
        (r"s([2-5])_fuse\.conv_f2s", r"t_res\1_LAST_branch2c_bn_subsample"),
        (r"s([2-5])_fuse\.bn", r"t_res\1_LAST_branch2c_bn_subsample_bn"),
        (r"s(\d)\.pathway\d_res(\d)\.branch1(_bn)?", r"res\1_\2_branch1\3"),
        (r"s(\d)\.pathway\d_res(\d)\.branch2\.(\w)(_bn)?", r"res\1_\2_branch2\3\4"),
        (r"s(\d)\.pathway0_nonlocal(\d)\.conv_(\w+)", r"nonlocal_conv\1_\2_\3"),
        (r"s(\d)\.pathway0_nonlocal(\d)\.norm", r"nonlocal_conv\1_\2_bn"),
        (r"head\.projection", "pred"),
    ]
    (row,) = [row for row in rows if re.fullmatch(row[0], module)]
    layer = pathway + re.sub(*row, module).replace("LAST", "0")
    norm = layer.endswith("_bn")
    kinds = {"weight": "s" if norm else "w", "bias": "b", "running_mean": "rm"}
    return f"{layer}_{kinds.get(leaf, 'riv')}"


def write(path, blobs):
    """As the trainer of video-nonlocal-net writes, with what is of the optimiser."""
    rest = {"model_iter": 400001, "lr": np.array(1e-4, np.float32), "conv1_w_momentum": np.ones(3)}
    path.write_bytes(pickle.dumps({"blobs": blobs | rest | {"t_conv1_w_momentum": np.ones(2)}}, 2))


@pytest.mark.parametrize(
    ("name", "fields", "some"),
    [
        (
            "nonlocal_net_nl_i3d_r50",
            {"non_local": ("res3.1", "res4.0")},
            ("nonlocal_conv3_1_theta_w", "nonlocal_conv4_0_bn_riv", "res3_1_branch2a_w", "pred_b"),
        ),
        (
            "slowfast_i3d_r50",
            {},
            ("res_conv1_bn_rm", "res4_1_branch2c_bn_b", "res2_0_branch1_bn_s"),
        ),
        (
            "slowfast_slowfast_r50",
            {},
            (
                *("conv1_w", "t_conv1_w", "t_res_conv1_bn_riv", "t_res2_0_branch2b_w"),
                *("t_pool1_subsample_w", "t_res4_0_branch2c_bn_subsample_bn_rm", "pred_w"),
            ),
        ),
    ],
)
def test_pickles_of_caffe2(name, fields, some, tmp_path):
    found = arch(name, **fields)
    wanted = state(found)
    blobs = {caffe2(name): value for name, value in wanted.items()}
    assert len(blobs) == len(wanted) and set(some) <= blobs.keys()
    write(tmp_path / "model.pkl", blobs)
    read = torch_files.read(tmp_path / "model.pkl")
    assert read.keys() == wanted.keys()
    converted = convert_torch.convert(read, found)
    jax.tree.map(np.testing.assert_array_equal, converted, convert_torch.convert(wanted, found))
    leaf = converted["params"]["classifier"]["kernel"]
    np.testing.assert_array_equal(leaf, wanted["head.projection.weight"].T)


def test_pathways_are_not_exchanged():
    found = arch("slowfast_slowfast_r50")
    wanted = state(found)
    backbone = convert_torch.convert(wanted, found)["params"]["backbone"]
    slow = wanted["s4.pathway0_res1.branch2.b.weight"].transpose(2, 3, 4, 1, 0)
    np.testing.assert_array_equal(backbone["slow_res4_1"]["conv2"]["kernel"], slow)
    fast = wanted["s2.pathway1_res0.branch2.a_bn.weight"]
    np.testing.assert_array_equal(backbone["fast_res2_0"]["bn1"]["scale"], fast)
    lateral = wanted["s3_fuse.conv_f2s.weight"].transpose(2, 3, 4, 1, 0)
    np.testing.assert_array_equal(backbone["lateral3"]["kernel"], lateral)


def test_numbers_of_numpy(tmp_path):
    write(tmp_path / "model.pkl", {"pred_b": np.ones(2, np.float32)})
    content = pickle.dumps({"blobs": {"pred_b": np.ones(2), "lr": np.float32(0.1)}}, 2)
    (tmp_path / "scalar.pkl").write_bytes(content)
    for file in ("model.pkl", "scalar.pkl"):
        assert torch_files.read(tmp_path / file)["head.projection.bias"].tolist() == [1, 1]


def test_other_pickles_are_refused(tmp_path):
    file = tmp_path / "model.pkl"
    write(file, {"rpn_cls_w": np.ones(2)})
    with pytest.raises(UserError, match=r"model\.pkl: rpn_cls_w is no array of a ResNet of video-"):
        torch_files.read(file)
    file.write_bytes(pickle.dumps({"blobs": {"pred_w": print}}))
    with pytest.raises(UserError, match=r"no pickle of arrays alone: it names builtins\.print"):
        torch_files.read(file)
