"""mmaction2's SlowFast, X3D and TRN written out in PyTorch with its names, against ours converted.

What is written out here was read in its release 1.2.0, which is fragile to install and which
`test_mmaction_itself.py` runs. The digests are of names and shapes of its own full-size networks.
Each comparison is repeated with a mistake, which must be noticed.
"""

import dataclasses
import hashlib
import itertools
import math
from unittest import mock

import numpy as np
import pytest

from rstg_jax.convert import torch as convert_torch
from rstg_jax.convert.torch_names import ARCHS
from rstg_jax.errors import UserError
from rstg_jax.models.backbones import slowfast
from rstg_jax.models.backbones.x3d import in_eights
from tests import torch_peers
from tests.torch_peers import (
    CLASSES,
    MISTAKE,
    arch,
    arrays,
    clips,
    compare_logits,
    deviation,
    he_normal,
    logits_of,
    nn,
    ours,
    randomise,
    torch,
)

# Number and SHA-256 of the lines "name shape", sorted, of slowfast_r50_8xb8-8x8x1 and x3d_m_16x5x1
# with 400 classes, trn_imagenet-pretrained-r50_8xb16-1x1x8 with 174.
DIGESTS = {
    "slowfast": (536, "5f02d740e2fbdc4052526e1b6f999bf7a4f90f29c91e6ba94609954994aff90c"),
    "x3d": (484, "9aff21afefcd6a8e14ac3a52fd2db02769d23ef587ccd9a9dcb1f856c7b53007"),
    "trn": (295, "5a90b28de93efa6df64911fbf0d0e4972242cac62c6730a4f0ab66c93d5b3809"),
}


class ConvModule(nn.Module):
    """Convolution, norm and activation of mmcv, the last two of which may be missing."""

    def __init__(self, before, after, kernel=1, stride=1, norm=True, act=nn.ReLU, **options):
        super().__init__()
        kernel = (kernel,) * 3 if isinstance(kernel, int) else kernel
        stride = (1, stride, stride) if isinstance(stride, int) else stride
        padding = tuple(size // 2 for size in kernel)
        self.conv = nn.Conv3d(before, after, kernel, stride, padding, bias=False, **options)
        if norm:
            self.bn = nn.BatchNorm3d(after)
        self.activate = act() if act else None

    def forward(self, x):
        x = self.conv(x)
        x = self.bn(x) if hasattr(self, "bn") else x
        return self.activate(x) if self.activate else x


class Bottleneck3d(nn.Module):
    def __init__(self, before, planes, stride, inflated, down):
        super().__init__()
        self.conv1 = ConvModule(before, planes, (3, 1, 1) if inflated else 1)
        self.conv2 = ConvModule(planes, planes, (1, 3, 3), stride)
        self.conv3 = ConvModule(planes, 4 * planes, act=None)
        self.downsample = ConvModule(before, 4 * planes, 1, stride, act=None) if down else None

    def forward(self, x):
        shortcut = self.downsample(x) if self.downsample else x
        return (self.conv3(self.conv2(self.conv1(x))) + shortcut).relu()


class Pathway(nn.Module):
    """Stages of a ResNet, of which the slow one receives `lateral` channels from the fast one."""

    def __init__(self, width, depths, stem, inflated, lateral=0, speed=4, kernel=7):
        super().__init__()
        self.conv1 = ConvModule(3, width, stem, 2)
        self.maxpool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        before = width
        for i, depth in enumerate(depths):
            extra = 2 * lateral * (1 if i == 0 else 2 ** (i + 1))
            if lateral:
                fast = lateral * (1 if i == 0 else 2 ** (i + 1))
                name = "conv1_lateral" if i == 0 else f"layer{i}_lateral"
                sideways = ConvModule(fast, extra, (kernel, 1, 1), (speed, 1, 1), False, None)
                self.add_module(name, sideways)
            planes, blocks = width * 2**i, []
            for number in range(depth):
                stride = 2 if i > 0 and number == 0 else 1
                into = before + extra if number == 0 else before
                blocks.append(Bottleneck3d(into, planes, stride, inflated[i], number == 0))
                before = 4 * planes
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))


class SlowFast(nn.Module):
    def __init__(self, width, depths, classes, speed=4, kernel=7):
        super().__init__()
        fast, last = width // 8, 4 * 2 ** (len(depths) - 1)
        self.backbone, self.cls_head = nn.Module(), nn.Module()
        inflated = (False, False, True, True)
        self.backbone.slow_path = Pathway(width, depths, (1, 7, 7), inflated, fast, speed, kernel)
        self.backbone.fast_path = Pathway(fast, depths, (5, 7, 7), (True,) * 4)
        self.cls_head.fc_cls = nn.Linear((width + fast) * last, classes)
        self.speed, self.depths = speed, depths

    def forward(self, x):
        slow_path, fast_path = self.backbone.slow_path, self.backbone.fast_path
        slow = nn.functional.interpolate(x, scale_factor=(1.0 / self.speed, 1.0, 1.0))
        slow = slow_path.maxpool(slow_path.conv1(slow))
        fast = fast_path.maxpool(fast_path.conv1(x))
        for i in range(len(self.depths)):
            name = "conv1_lateral" if i == 0 else f"layer{i}_lateral"
            slow = torch.cat([slow, getattr(slow_path, name)(fast)], dim=1)
            slow = getattr(slow_path, f"layer{i + 1}")(slow)
            fast = getattr(fast_path, f"layer{i + 1}")(fast)
        means = [fast.mean((2, 3, 4)), slow.mean((2, 3, 4))]
        return self.cls_head.fc_cls(torch.cat(means, dim=1))


class SEModule(nn.Module):
    def __init__(self, width):
        super().__init__()
        squeezed = in_eights(width / 16)
        self.fc1, self.fc2 = nn.Conv3d(width, squeezed, 1), nn.Conv3d(squeezed, width, 1)

    def forward(self, x):
        return x * self.fc2(self.fc1(x.mean((2, 3, 4), keepdim=True)).relu()).sigmoid()


class BlockX3D(nn.Module):
    def __init__(self, before, inner, after, stride, gated):
        super().__init__()
        down = stride > 1 or before != after
        self.downsample = ConvModule(before, after, 1, stride, act=None) if down else None
        self.conv1 = ConvModule(before, inner)
        self.conv2 = ConvModule(inner, inner, 3, stride, act=None, groups=inner)
        self.swish = nn.SiLU()
        self.conv3 = ConvModule(inner, after, act=None)
        if gated:
            self.se_module = SEModule(inner)

    def forward(self, x):
        y = self.conv2(self.conv1(x))
        y = self.se_module(y) if hasattr(self, "se_module") else y
        shortcut = self.downsample(x) if self.downsample else x
        return (self.conv3(self.swish(y)) + shortcut).relu()


class X3D(nn.Module):
    def __init__(self, width, depths, dim, classes):
        super().__init__()
        self.backbone, self.cls_head = nn.Module(), nn.Module()
        stem = ConvModule(3, width, (1, 3, 3), 2, False, None)
        self.backbone.conv1_s = stem
        self.backbone.conv1_t = ConvModule(width, width, (5, 1, 1), groups=width)
        before = width
        for i, depth in enumerate(depths):
            after, blocks = width * 2**i, []
            for number in range(depth):
                stride = 1 if number else 2
                inner = int(2.25 * after)
                blocks.append(BlockX3D(before, inner, after, stride, number % 2 == 0))
                before = after
            self.backbone.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.backbone.conv5 = ConvModule(before, inner)
        self.cls_head.fc1 = nn.Linear(inner, dim, bias=False)
        self.cls_head.fc2 = nn.Linear(dim, classes)
        self.depths = depths

    def forward(self, x):
        x = self.backbone.conv1_t(self.backbone.conv1_s(x))
        for i in range(len(self.depths)):
            x = getattr(self.backbone, f"layer{i + 1}")(x)
        x = self.backbone.conv5(x).mean((2, 3, 4))
        return self.cls_head.fc2(self.cls_head.fc1(x).relu())


class TRN(nn.Module):
    """On single frames; kernels of the file have no axis of frames, see `state_of`."""

    def __init__(self, width, depths, dim, frames, classes):
        super().__init__()
        self.backbone, self.cls_head = nn.Module(), nn.Module()
        trunk = Pathway(width, depths, (1, 7, 7), (False,) * 4)
        for name, module in trunk.named_children():
            self.backbone.add_module(name, module)
        self.cls_head.fc_cls = nn.Linear(4 * width * 2 ** (len(depths) - 1), dim)
        self.cls_head.consensus = nn.Module()
        self.cls_head.consensus.fc_fusion_scales = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Linear(size * dim, 256), nn.ReLU(), nn.Linear(256, classes))
            for size in range(frames, 1, -1)
        )
        self.depths, self.frames = depths, frames

    def forward(self, x):
        """All subsets, each scale's sum scaled to that of the three that mmaction2 draws."""
        x = self.backbone.maxpool(self.backbone.conv1(x))
        for i in range(len(self.depths)):
            x = getattr(self.backbone, f"layer{i + 1}")(x)
        x = self.cls_head.fc_cls(x.mean((3, 4)).transpose(1, 2))  # [b t d]
        total = 0
        for i, relation in enumerate(self.cls_head.consensus.fc_fusion_scales):
            subsets = list(itertools.combinations(range(self.frames), self.frames - i))
            share = min(3, len(subsets)) / len(subsets)
            total = total + share * sum(relation(x[:, list(s)].flatten(1)) for s in subsets)
        return total


def state_of(model, flat=False):
    """Names and arrays, with kernels over rows and columns alone if `flat`."""
    state = arrays(model.state_dict())
    return {k: v[:, :, 0] if flat and v.ndim == 5 else v for k, v in state.items()}


def drawn(model):
    """He-normal weights, random statistics and biases, also of linear layers."""
    model = he_normal(randomise(model))
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=math.sqrt(2 / module.in_features))
    return model


def digest(shapes):
    """Number and SHA-256 of lines, for shapes by name."""
    kept = {key: shape for key, shape in shapes.items() if not key.endswith("num_batches_tracked")}
    lines = sorted(f"{key} {shape}" for key, shape in kept.items())
    return len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()


@pytest.mark.parametrize("name", DIGESTS)
def test_names_and_shapes_are_those_of_mmaction2(name):
    with torch.device("meta"):
        model = {
            "slowfast": lambda: SlowFast(64, (3, 4, 6, 3), 400),
            "x3d": lambda: X3D(24, (3, 5, 11, 7), 2048, 400),
            "trn": lambda: TRN(64, (3, 4, 6, 3), 256, 8, 174),
        }[name]()
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    if name == "trn":  # kernels without an axis of frames
        shapes = {k: s[:2] + s[3:] if len(s) == 5 else s for k, s in shapes.items()}
    assert digest(shapes) == DIGESTS[name]


@pytest.mark.parametrize(("name", "speed"), [("slowfast_r50", 4), ("slowfast_4x16_r50", 8)])
def test_slowfast(name, speed):
    torch.manual_seed(0)
    model = drawn(SlowFast(16, (1, 2), CLASSES, speed, {4: 7, 8: 5}[speed]))
    found = arch(f"mmaction_{name}", width=16, depths=(1, 2))
    state, video = state_of(model), clips((2, 16, 48, 48, 3))
    logits, x = compare_logits(f"mmaction_{name}", found, state, video, model)
    ends = dataclasses.replace(found.backbone, slow_frames="ends")
    other = ours(dataclasses.replace(found, backbone=ends), state, video)[1]
    assert deviation(logits, other) > MISTAKE
    rolled = {"cls_head.fc_cls.weight": np.roll(state["cls_head.fc_cls.weight"], 16, axis=1)}
    assert deviation(logits, ours(found, state | rolled, video)[1]) > MISTAKE
    model.backbone.slow_path.layer1_lateral.activate = nn.ReLU()
    assert deviation(logits, logits_of(model, x)) > MISTAKE


def test_slow_frames():
    assert slowfast.slow_frames(16, 4, "starts").tolist() == [0, 4, 8, 12]
    assert slowfast.slow_frames(16, 4).tolist() == [0, 5, 10, 15]


def test_x3d():
    torch.manual_seed(1)
    depths = (1, 2, 3)
    model = drawn(X3D(8, depths, 40, CLASSES))
    found = torch_peers.with_head(arch("mmaction_x3d_m", depths=depths, width=8), dim=40)
    video = clips((2, 4, 48, 48, 3))
    logits, x = compare_logits("mmaction_x3d", found, state_of(model), video, model)
    block = model.backbone.layer3[2]
    for name, wrong in (("se_module", nn.Identity()), ("swish", nn.ReLU())):
        with mock.patch.object(block, name, wrong):
            assert deviation(logits, logits_of(model, x)) > MISTAKE, name


def trn(frames, **backbone):
    """The network of the library for other numbers of frames."""
    found = arch("mmaction_trn_r50", **backbone)
    head = dataclasses.replace(found.head, frames=frames, dim=256)
    names = dataclasses.replace(found.names, head=head)
    return dataclasses.replace(found, names=names, head=head, frames=frames)


def test_trn():
    torch.manual_seed(2)
    tables = {
        "temporal_kernels": ((1,), (1,)),
        "spatial_strides": (1, 2),
        "temporal_strides": (1, 1),
    }
    model = drawn(TRN(8, (1, 2), 256, 4, CLASSES))
    found = trn(4, width=8, depths=(1, 2), **tables)
    state, video = state_of(model, flat=True), clips((2, 4, 48, 48, 3))
    logits, x = compare_logits("mmaction_trn", found, state, video, model)
    assert deviation(logits, logits_of(model, x.flip(2))) > MISTAKE
    other = torch_peers.with_head(found, subsets=2)
    assert deviation(ours(other, state, video)[1], logits) > MISTAKE


@pytest.mark.parametrize("name", ["slowfast_r50", "x3d_m", "trn_r50"])
def test_files_that_do_not_fit(name):
    """All tensors are missing, one too many, one too few."""
    found = ARCHS[f"mmaction_{name}"]
    with pytest.raises(UserError, match=r"missing (backbone|cls_head)"):
        convert_torch.convert({}, found)
    if name == "slowfast_r50":
        state = state_of(SlowFast(16, (1, 1), CLASSES))
        fitting = arch("mmaction_slowfast_r50", width=16, depths=(1, 1))
        convert_torch.convert(state, fitting)
        norm = {"backbone.slow_path.conv1_lateral.bn.weight": state["cls_head.fc_cls.bias"]}
        with pytest.raises(UserError, match=r"unused backbone\.slow_path\.conv1_lateral\.bn\.w"):
            convert_torch.convert(state | norm, fitting)
        del state["backbone.fast_path.layer1.0.conv3.conv.weight"]
        with pytest.raises(UserError, match=r"missing backbone\.fast_path\.layer1\.0\.conv3\.con"):
            convert_torch.convert(state, fitting)
