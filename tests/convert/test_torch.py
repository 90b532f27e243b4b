"""Networks that others wrote in PyTorch, with random weights, against ours with these converted.

The peers are torchvision's ResNet and PyTorchVideo's I3D with PyTorchVideo's non-local blocks.
SlowFast's and mmaction2's networks are the same layers under other names and strides; mmaction2's
non-local block differs and is written out here.
"""

import dataclasses

import jax
import numpy as np
import pytest

from rstg_jax.convert import torch as convert_torch
from rstg_jax.convert.torch_names import ARCHS
from rstg_jax.errors import UserError
from rstg_jax.models.backbones import inception
from rstg_jax.models.heads import GlobalPooling
from rstg_jax.training import trained_model
from tests import torch_peers
from tests.torch_peers import (
    CLASSES,
    arch,
    arrays,
    clips,
    compare,
    he_normal,
    nn,
    normalised,
    ours,
    randomise,
    run_3d,
    torch,
)

WIDTH = 8


@pytest.fixture(scope="module")
def torchvision():
    return torch_peers.torchvision()


@pytest.fixture(scope="module")
def pytorchvideo():
    """Builders of narrow I3D-R50, with keyword arguments, and of non-local blocks."""
    hub = torch_peers.pytorchvideo().hub
    from pytorchvideo.layers.nonlocal_net import create_nonlocal

    def i3d(**settings):
        return hub.i3d_r50(stem_dim_out=WIDTH, model_num_class=CLASSES, **settings)

    return i3d, create_nonlocal


def run_2d(model, x):
    """Features `[b t h w c]` and logits `[b t classes]` of every frame of `[b c t h w]`."""
    kept = []
    hook = model.layer4.register_forward_hook(lambda module, inputs, output: kept.append(output))
    b, _, t, *_ = x.shape
    with torch.no_grad():
        logits = model(x.transpose(1, 2).flatten(0, 1))
    hook.remove()
    features = kept[0].unflatten(0, (b, t)).numpy()
    return np.moveaxis(features, 2, -1), logits.unflatten(0, (b, t)).numpy()


def test_imagenet_resnet50_frame_by_frame(torchvision):
    torch.manual_seed(0)
    model = randomise(torchvision.models.resnet50(num_classes=11))
    found = ARCHS["imagenet_c2d_r50"]
    video = clips((2, 3, 64, 64, 3))
    features, logits = ours(found, arrays(model.state_dict()), video)
    theirs = run_2d(model, normalised(video, found))
    compare("imagenet_c2d_r50 features", features, theirs[0])
    compare("imagenet_c2d_r50 logits", logits, theirs[1].mean(axis=1))


def test_inflated_network_sees_still_pictures_as_the_2d_one(torchvision):
    """Where zero padding in time cannot be seen: 4 frames from either end for these depths.

    Two frames at conv1 and one at res2 are 3, hence 2 after the temporal pool; one more each at
    res3 and res4, none at res5.
    """
    torch.manual_seed(1)
    model = torchvision.models.resnet.ResNet(
        torchvision.models.resnet.Bottleneck, [1, 2, 2, 1], num_classes=5
    )
    found = arch("imagenet_i3d_r50", depths=(1, 2, 2, 1))
    video = np.repeat(clips((1, 1, 64, 64, 3)), 20, axis=1)
    features, _ = ours(found, arrays(randomise(model).state_dict()), video)
    theirs, _ = run_2d(model, normalised(video[:, :1], found))
    assert features.shape[1] == 10
    compare("imagenet_i3d features", features[:, 4:6], np.repeat(theirs, 2, axis=1))
    for border in (3, 6):
        assert np.abs(features[:, border] - theirs[:, 0]).max() > 1e-3 * np.abs(theirs).max()


@pytest.fixture(scope="module")
def i3d(pytorchvideo):
    torch.manual_seed(2)
    model, _ = pytorchvideo
    return randomise(model(head_pool_kernel_size=(4, 2, 2)))


def test_pytorchvideo_i3d(i3d):
    found = arch("pytorchvideo_i3d_r50", width=WIDTH)
    video = clips((2, 8, 64, 64, 3))
    features, logits = ours(found, arrays(i3d.state_dict()), video)
    theirs = run_3d(i3d, normalised(video, found))
    compare("pytorchvideo_i3d_r50 features", features, theirs[0])
    compare("pytorchvideo_i3d_r50 logits", logits, theirs[1])


def add_non_local(model, make):
    """Puts non-local blocks behind the odd blocks of PyTorchVideo's res3 and res4."""
    for stage, channels in ((3, 8 * WIDTH), (4, 16 * WIDTH)):
        blocks = nn.ModuleList()
        for number, block in enumerate(model.blocks[stage].res_blocks):
            blocks.append(block)
            if number % 2:
                blocks.append(make(channels, channels // 2))
        model.blocks[stage].res_blocks = blocks
    return randomise(model)


def renamed(model, stem, block, non_local, inside, classifier):
    """The state dict of a PyTorchVideo network under another project's names."""

    def replace(name, pairs):
        for theirs, new in pairs:
            if name.startswith(f"{theirs}."):
                return new + name.removeprefix(theirs)
        raise AssertionError(name)

    stem_pairs = [("conv", stem[0]), ("norm", stem[1])]
    state = {replace(k, stem_pairs): v for k, v in model.blocks[0].state_dict().items()}
    for stage, part in ((2, 1), (3, 3), (4, 4), (5, 5)):
        number = -1
        for module in model.blocks[part].res_blocks:
            is_block = hasattr(module, "branch2")
            number += is_block
            begin = (block if is_block else non_local).format(stage, number)
            for name, value in module.state_dict().items():
                state[begin + (replace(name, inside) if is_block else name)] = value
    for name, value in model.blocks[6].proj.state_dict().items():
        state[f"{classifier}.{name}"] = value
    return arrays(state)


def test_slowfast_non_local(pytorchvideo):
    torch.manual_seed(3)
    build, create_nonlocal = pytorchvideo

    def make(channels, inner):
        return create_nonlocal(dim_in=channels, dim_inner=inner, pool_size=(1, 2, 2))

    model = add_non_local(build(head_pool_kernel_size=(2, 2, 2)), make)
    inside = [("branch1_conv", "branch1"), ("branch1_norm", "branch1_bn")]
    inside += [(f"branch2.conv_{x}", f"branch2.{x}") for x in "abc"]
    inside += [(f"branch2.norm_{x}", f"branch2.{x}_bn") for x in "abc"]
    state = renamed(
        model,
        ("s1.pathway0_stem.conv", "s1.pathway0_stem.bn"),
        "s{}.pathway0_res{}.",
        "s{}.pathway0_nonlocal{}.",
        inside,
        "head.projection",
    )
    found = arch("slowfast_nl_i3d_r50", width=WIDTH)
    video = clips((2, 4, 64, 64, 3))
    features, logits = ours(found, state, video)
    theirs = run_3d(model, normalised(video, found))
    compare("slowfast_nl_i3d_r50 features", features, theirs[0])
    compare("slowfast_nl_i3d_r50 logits", logits, theirs[1])


class MmcvNonLocal(nn.Module):
    """mmcv's NonLocal3d as mmaction2 uses it: pools after the convolutions, logits not divided.

    Source: mmcv/cnn/bricks/non_local.py with sub_sample, mode embedded_gaussian, no use_scale.
    """

    def __init__(self, channels, inner):
        super().__init__()

        def conv(size_in, size_out, bias=True):
            return nn.ModuleDict({"conv": nn.Conv3d(size_in, size_out, 1, bias=bias)})

        self.pool = nn.MaxPool3d((1, 2, 2))
        self.theta = conv(channels, inner)
        self.phi = nn.ModuleList([conv(channels, inner)])
        self.g = nn.ModuleList([conv(channels, inner)])
        self.conv_out = conv(inner, channels, bias=False)
        self.conv_out["bn"] = nn.BatchNorm3d(channels)

    def forward(self, x):
        theta = self.theta["conv"](x).flatten(2)
        phi = self.pool(self.phi[0]["conv"](x)).flatten(2)
        g = self.pool(self.g[0]["conv"](x)).flatten(2)
        weights = torch.softmax(theta.transpose(1, 2) @ phi, dim=-1)
        y = (g @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.conv_out["bn"](self.conv_out["conv"](y))


def test_mmaction_non_local(pytorchvideo):
    torch.manual_seed(4)
    build, _ = pytorchvideo
    settings = {"stem_conv_stride": (2, 2, 2), "stem_pool_stride": (2, 2, 2)}
    model = build(head_pool_kernel_size=(2, 2, 2), **settings)
    model = add_non_local(model, MmcvNonLocal)
    inside = [("branch1_conv", "downsample.conv"), ("branch1_norm", "downsample.bn")]
    inside += [(f"branch2.conv_{x}", f"conv{i}.conv") for i, x in enumerate("abc", 1)]
    inside += [(f"branch2.norm_{x}", f"conv{i}.bn") for i, x in enumerate("abc", 1)]
    # mmaction2 counts its stages from 1.
    layer = {f"layer{stage}.": f"backbone.layer{stage - 1}." for stage in (2, 3, 4, 5)}
    state = renamed(
        model,
        ("backbone.conv1.conv", "backbone.conv1.bn"),
        "layer{}.{}.",
        "layer{}.{}.non_local_block.",
        inside,
        "cls_head.fc_cls",
    )
    state = {layer.get(name[:7], name[:7]) + name[7:]: value for name, value in state.items()}
    found = arch("mmaction_nl_i3d_r50", width=WIDTH)
    video = clips((2, 16, 64, 64, 3))
    features, logits = ours(found, state, video)
    theirs = run_3d(model, normalised(video, found))
    compare("mmaction_nl_i3d_r50 features", features, theirs[0])
    compare("mmaction_nl_i3d_r50 logits", logits, theirs[1])


@pytest.mark.slow
def test_torchvision_s3d(torchvision):
    """He-normal weights: torchvision's own let the signal die, and wrong padding passes."""
    torch.manual_seed(5)
    model = he_normal(randomise(torchvision.models.video.s3d(num_classes=CLASSES)))
    nn.init.normal_(model.classifier[1].bias)
    model.avgpool = nn.AvgPool3d((2, 3, 3), stride=1)  # for smaller frames
    found = dataclasses.replace(ARCHS["torchvision_s3d"], head=GlobalPooling(pool_window=3))
    video, state = clips((1, 16, 96, 114, 3)), arrays(model.state_dict())
    x = normalised(video, found)
    with torch.no_grad():
        features, wanted = model.features(x), model(x).numpy()
        first = np.moveaxis(model.features[:6](x).numpy(), 1, -1)
    features = np.moveaxis(nn.AvgPool3d((2, 1, 1), stride=1)(features).numpy(), 1, -1)
    assert features.shape == (1, 1, 3, 4, 1024)
    theirs = ours(found, state, video)
    compare("torchvision_s3d features", theirs[0], features)
    compare("torchvision_s3d logits", theirs[1], wanted)
    variables = convert_torch.convert(state, found)
    compare("torchvision_s3d mixed3b", mixed3b(found.backbone, variables, video), first)
    for wrong in ({"padding": "same"}, {"pool_padding": "same"}, {"epsilon": 1e-5}):
        network = dataclasses.replace(found.backbone, **wrong)
        mistaken = mixed3b(network, variables, video)
        assert np.abs(mistaken - first).max() > 1e-3 * np.abs(first).max()


def mixed3b(backbone, variables, video):
    """The map behind the first mixed block; nothing behind it is run."""
    kept = []
    inside = {kind: tree["backbone"] for kind, tree in variables.items()}

    def run(inside, video):
        after = {"mixed3b": lambda x: kept.append(x) or x}
        backbone.build(np.float32, None).apply(inside, video, after=after)
        return kept[-1]

    return np.asarray(jax.jit(run)(inside, video))


def test_slim_separable_convolution_without_a_second_norm():
    """tensorflow/models, research/slim/nets/i3d_utils.py, written out: odd sizes, stride 2."""
    config = inception.s3dg(width=64)
    unit = inception.Unit(config, 6, (3, 3, 3), (2, 2, 2), separable=True)
    x = np.random.default_rng(0).standard_normal((2, 5, 7, 8, 4), np.float32)
    variables = unit.init(jax.random.key(1), x, train=False)
    time = variables["params"]["conv_time"]
    np.testing.assert_array_equal(time["kernel"][1, 0, 0], np.eye(6))
    assert not np.any(time["kernel"][::2]) and not np.any(time["bias"])
    generator = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda leaf: generator.uniform(0.5, 1.5, leaf.shape).astype(np.float32) - 0.4, variables
    )
    params, stats = variables["params"], variables["batch_stats"]["bn"]
    kernels = [
        torch.tensor(np.moveaxis(np.asarray(params[name]["kernel"]), (-1, -2), (0, 1)))
        for name in ("conv", "conv_time")
    ]
    y = nn.functional.pad(torch.tensor(np.moveaxis(x, -1, 1)), (0, 1, 1, 1))  # SAME: 8, then 7
    y = nn.functional.conv3d(y, kernels[0], stride=(1, 2, 2))
    norm = [
        torch.tensor(a)
        for a in (stats["mean"], stats["var"], *map(params["bn"].get, ("scale", "bias")))
    ]
    y = nn.functional.batch_norm(y, *norm, eps=1e-3).relu()
    y = nn.functional.conv3d(
        y, kernels[1], torch.tensor(params["conv_time"]["bias"]), (2, 1, 1), (1, 0, 0)
    ).relu()
    found = unit.apply(variables, x, train=False)
    compare("slim separable", np.asarray(found), np.moveaxis(y.numpy(), 1, -1))


def test_what_does_not_fit_is_named(i3d):
    found = arch("pytorchvideo_i3d_r50", width=WIDTH)
    state = arrays(i3d.state_dict())
    del state["blocks.3.res_blocks.2.branch2.norm_b.running_var"]
    state["blocks.9.weight"] = np.zeros(3)
    state["blocks.0.conv.weight"] = np.zeros((8, 3, 3, 7, 7), np.float32)
    with pytest.raises(UserError) as error:
        convert_torch.convert(state, found)
    assert str(error.value) == (
        "the tensors do not fit the architecture: "
        "misshapen blocks.0.conv.weight [8, 3, 3, 7, 7], ours is [5, 7, 7, 3, 8]; "
        "missing blocks.3.res_blocks.2.branch2.norm_b.running_var; unused blocks.9.weight"
    )
    state |= {f"other.{number:02}": np.zeros(3) for number in range(20)}
    with pytest.raises(UserError, match=r"unused other\.04; and 15 more$"):
        convert_torch.convert(state, found)


def test_command_line(i3d, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(ARCHS, "tiny", arch("pytorchvideo_i3d_r50", width=WIDTH))
    state = {f"module.{name}": tensor for name, tensor in i3d.state_dict().items()}
    torch.save({"epoch": 3, "model_state": state}, tmp_path / "model.pyth")
    (tmp_path / "labels.txt").write_text("\n".join("abcdefg"))
    out = tmp_path / "out"
    labels = f"--labels={tmp_path / 'labels.txt'}"
    words = [str(tmp_path / "model.pyth"), "--arch=tiny", f"--out={out}"]
    assert convert_torch.main([*words, labels]) == 0
    assert "7 classes" in capsys.readouterr().out
    loaded = trained_model.load(out)
    assert loaded.label_names == tuple("abcdefg")
    assert loaded.meta["video_shape"] == [8, 224, 224, 3]
    wanted = convert_torch.convert(arrays(state), ARCHS["tiny"])
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, wanted)
    with pytest.raises(UserError, match="already holds checkpoints"):
        convert_torch.main(words)


class Code:
    """What a pickle of weights must not hold."""

    def __reduce__(self):
        return (print, ("run",))


def test_tensors_of_every_kind(tmp_path):
    file = tmp_path / "model.pth"
    torch.save({"x": nn.Parameter(torch.ones(2)), "y": torch.ones(1, dtype=torch.bfloat16)}, file)
    found = convert_torch.read(file)
    assert found["x"].tolist() == [1, 1] and found["y"].dtype == np.float32
    for tensor, message in (
        (torch.zeros(2).to(torch.float8_e4m3fn), "x is of type float8_e4m3fn; save the weights"),
        (torch.zeros(2, dtype=torch.complex64), "x is of type complex64; save the weights"),
        (torch.zeros(2, 2).to_sparse(), "x cannot be read: can't convert Sparse"),
    ):
        torch.save({"x": tensor}, file)
        with pytest.raises(UserError, match=rf"model\.pth: {message}"):
            convert_torch.read(file)


def test_files_that_are_not_weights(tmp_path, capsys):
    torch.save({"state_dict": {"x": torch.zeros(2)}, "args": Code()}, tmp_path / "code.pth")
    with pytest.raises(UserError, match=r"code\.pth holds more than weights.*print") as error:
        convert_torch.read(tmp_path / "code.pth")
    assert "\n" not in str(error.value)
    assert "run" not in capsys.readouterr().out
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match=r"list\.pth holds no state dict"):
        convert_torch.read(tmp_path / "list.pth")
    (tmp_path / "page.pth").write_text("<html>")
    with pytest.raises(UserError, match=r"page\.pth is not a PyTorch file: Unsupported operand 60"):
        convert_torch.read(tmp_path / "page.pth")
    (tmp_path / "empty.pth").touch()
    with pytest.raises(UserError, match=r"empty\.pth is not a whole PyTorch file: EOFError"):
        convert_torch.read(tmp_path / "empty.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(UserError, match=r"text\.pth is not a whole PyTorch file: KeyError: "):
        convert_torch.read(tmp_path / "text.pth")
    torch.save({"x": torch.zeros(1000)}, tmp_path / "half.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "half.pth").read_bytes()[:2000])
    with pytest.raises(UserError, match=r"half\.pth is not a whole PyTorch file"):
        convert_torch.read(tmp_path / "half.pth")
