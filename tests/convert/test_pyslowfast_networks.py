"""PySlowFast's X3D and MViTv2 written out in PyTorch with its names, against ours after conversion.

PySlowFast is not on PyPI. What is written out here was read in its `stem_helper.py`,
`resnet_helper.py`, `operators.py`, `head_helper.py`, `attention.py` and `video_model_builder.py`.
Each comparison is repeated with a mistake, which must be noticed.
"""

import dataclasses
import re
from unittest import mock

import pytest

from rstg_jax.convert import torch as convert_torch
from rstg_jax.convert import torch_files
from rstg_jax.convert.torch_names import ARCHS
from rstg_jax.errors import UserError
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
    random_transformer,
    randomise,
    torch,
)


def conv(before, after, kernel=1, stride=1, groups=1, bias=False):
    kernel = (kernel,) * 3 if isinstance(kernel, int) else kernel
    padding = tuple(size // 2 for size in kernel)
    return nn.Conv3d(before, after, kernel, (1, stride, stride), padding, groups=groups, bias=bias)


class Stem(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv_xy = conv(3, width, (1, 3, 3), 2)
        self.conv = conv(width, width, (5, 1, 1), groups=width)
        self.bn = nn.BatchNorm3d(width)

    def forward(self, x):
        return self.bn(self.conv(self.conv_xy(x))).relu()


class Gate(nn.Module):
    def __init__(self, width):
        super().__init__()
        squeezed = in_eights(width / 16)
        self.fc1, self.fc2 = conv(width, squeezed, bias=True), conv(squeezed, width, bias=True)

    def forward(self, x):
        means = x.mean((2, 3, 4), keepdim=True)
        return x * self.fc2(self.fc1(means).relu()).sigmoid()


class Transform(nn.Module):
    def __init__(self, before, after, inner, stride, gated):
        super().__init__()
        self.a, self.a_bn = conv(before, inner), nn.BatchNorm3d(inner)
        self.b, self.b_bn = conv(inner, inner, 3, stride, groups=inner), nn.BatchNorm3d(inner)
        if gated:
            self.se = Gate(inner)
        self.c, self.c_bn = conv(inner, after), nn.BatchNorm3d(after)
        self.act = nn.SiLU()

    def forward(self, x):
        x = self.b_bn(self.b(self.a_bn(self.a(x)).relu()))
        x = self.se(x) if hasattr(self, "se") else x
        return self.c_bn(self.c(self.act(x)))


class Block(nn.Module):
    def __init__(self, before, after, inner, stride, gated):
        super().__init__()
        if before != after or stride > 1:
            self.branch1, self.branch1_bn = conv(before, after, 1, stride), nn.BatchNorm3d(after)
        self.branch2 = Transform(before, after, inner, stride, gated)

    def forward(self, x):
        shortcut = self.branch1_bn(self.branch1(x)) if hasattr(self, "branch1") else x
        return (shortcut + self.branch2(x)).relu()


class Head(nn.Module):
    def __init__(self, before, inner, dim):
        super().__init__()
        self.conv_5, self.conv_5_bn = conv(before, inner), nn.BatchNorm3d(inner)
        self.lin_5 = conv(inner, dim)
        self.projection = nn.Linear(dim, CLASSES)

    def forward(self, x):
        x = self.conv_5_bn(self.conv_5(x)).relu().mean((2, 3, 4), keepdim=True)
        return self.projection(self.lin_5(x).relu().flatten(1))


class X3D(nn.Module):
    def __init__(self, width, depths, dim):
        super().__init__()
        self.s1 = nn.Module()
        self.s1.pathway0_stem = Stem(width)
        before = width
        for stage, depth in enumerate(depths):
            after = width * 2**stage
            inner = int(2.25 * after)
            blocks = nn.Module()
            for number in range(depth):
                stride = 1 if number else 2
                block = Block(before, after, inner, stride, gated=number % 2 == 0)
                blocks.add_module(f"pathway0_res{number}", block)
                before = after
            self.add_module(f"s{stage + 2}", blocks)
        self.head = Head(before, inner, dim)

    def forward(self, x):
        x = self.s1.pathway0_stem(x)
        for stage in (self.s2, self.s3, self.s4, self.s5):
            for block in stage.children():
                x = block(x)
        return self.head(x)


def test_x3d(tmp_path):
    torch.manual_seed(0)
    depths = (1, 2, 3, 1)
    model = he_normal(randomise(X3D(8, depths, 40)))
    found = torch_peers.with_head(arch("slowfast_x3d_s", depths=depths, width=8), dim=40)
    saved = {"epoch": 299, "model_state": model.state_dict(), "cfg": "MODEL: ..."}
    torch.save(saved, tmp_path / "x3d_s.pyth")
    video = clips((2, 4, 64, 64, 3))
    state = torch_files.read(tmp_path / "x3d_s.pyth")
    logits, x = compare_logits("slowfast_x3d", found, state, video, model)

    block, transform = model.s2.pathway0_res0, model.s4.pathway0_res2.branch2
    for owner, name, wrong in (
        (block, "branch1_bn", nn.Identity()),
        (transform, "se", nn.Identity()),
        (transform, "act", nn.ReLU()),
    ):
        with mock.patch.object(owner, name, wrong):
            assert deviation(logits, logits_of(model, x)) > MISTAKE, name


def test_a_file_of_x3d_that_does_not_fit():
    """PyTorchVideo's X3D lacks a norm that PySlowFast's has; other depths; a tensor is missing."""
    state = arrays(X3D(8, (1, 1, 1, 1), 40).state_dict())
    fitting = torch_peers.with_head(arch("slowfast_x3d_m", depths=(1, 1, 1, 1), width=8), dim=40)
    convert_torch.convert(state, fitting)
    leaves = ("bias", "running_mean", "running_var", "weight")
    norm = "; ".join(f"unused s2.pathway0_res0.branch1_bn.{leaf}" for leaf in leaves)
    config = dataclasses.replace(fitting.backbone, shortcut_norms="wider")
    with pytest.raises(UserError, match=rf"not fit the architecture: {re.escape(norm)}$"):
        convert_torch.convert(state, dataclasses.replace(fitting, backbone=config))
    with pytest.raises(UserError, match=r"unused s5\.pathway0_res0\.branch1\.weight; unused s5"):
        config = dataclasses.replace(fitting.backbone, depths=(1, 1, 1))
        convert_torch.convert(state, dataclasses.replace(fitting, backbone=config))
    del state["s3.pathway0_res0.branch2.se.fc2.bias"]
    with pytest.raises(UserError, match=r": missing s3\.pathway0_res0\.branch2\.se\.fc2\.bias$"):
        convert_torch.convert(state, fitting)


@pytest.mark.parametrize(
    ("size", "depths", "clip", "millions"),
    [
        ("xs", (3, 5, 11, 7), (4, 12, 160), 3.79),
        ("s", (3, 5, 11, 7), (13, 6, 160), 3.79),
        ("m", (3, 5, 11, 7), (16, 5, 224), 3.79),
        ("l", (5, 10, 25, 15), (16, 5, 312), 6.15),
    ],
)
def test_the_published_sizes_of_x3d(size, depths, clip, millions):
    """Blocks are 1, 2, 5, 3 times 2.2, or 5.0, rounded up; clips of Kinetics/X3D_*.yaml."""
    for one in (ARCHS[f"slowfast_x3d_{size}"], ARCHS[f"pytorchvideo_x3d_{size}"]):
        assert (one.frames, one.stride, one.crop) == clip
        assert one.backbone.depths == depths and one.view_average == "softmax"
    with torch.device("meta"):
        model = X3D(24, depths, 2048)
    weights = sum(weight.numel() for weight in model.parameters()) + 2049 * (400 - CLASSES)
    assert weights / 1e6 == pytest.approx(millions, abs=0.01)


class Attention(nn.Module):
    def __init__(self, before, width, heads, strides, grid):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(before, 3 * width), nn.Linear(width, width)
        depth = width // heads
        for part, stride in zip("qkv", strides, strict=True):
            pool = conv(depth, depth, 3, stride, groups=depth)
            self.add_module(f"pool_{part}", pool)
            self.add_module(f"norm_{part}", nn.LayerNorm(depth, eps=1e-6))
        side = 2 * max(grid[1] // strides[0], grid[1] // strides[1]) - 1
        for axis, length in (("h", side), ("w", side), ("t", 2 * grid[0] - 1)):
            self.register_parameter(f"rel_pos_{axis}", nn.Parameter(torch.zeros(length, depth)))

    def pooled(self, part, x, grid):
        maps = x[:, :, 1:].flatten(0, 1).unflatten(1, grid).movedim(-1, 1)
        maps = getattr(self, f"pool_{part}")(maps)
        rest = maps.flatten(2).transpose(1, 2).unflatten(0, x.shape[:2])
        x = torch.cat([x[:, :, :1], rest], dim=2)
        return getattr(self, f"norm_{part}")(x), maps.shape[2:]

    def entries(self, axis, queries, keys):
        """Rows of a table, interpolated if it is of another length, for queries and keys."""
        table, wanted = getattr(self, f"rel_pos_{axis}"), 2 * max(queries, keys) - 1
        if len(table) != wanted:
            table = nn.functional.interpolate(table.T[None], size=wanted, mode="linear")[0].T
        q_step, k_step = max(keys / queries, 1.0), max(queries / keys, 1.0)
        distance = torch.arange(queries)[:, None] * q_step - torch.arange(keys)[None] * k_step
        return table[(distance + (keys - 1) * k_step).long()]

    def forward(self, x, grid):
        b, n = x.shape[:2]
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        (q, q_grid), (k, k_grid), (v, _) = (
            self.pooled(part, part_x, grid) for part, part_x in zip("qkv", (q, k, v), strict=True)
        )
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        maps = q[:, :, 1:].unflatten(2, q_grid)
        t, h, w = (
            self.entries(axis, *sizes)
            for axis, sizes in zip("thw", zip(q_grid, k_grid, strict=True), strict=True)
        )
        near = torch.einsum("bntyxc,tkc->bntyxk", maps, t)[..., None, None]
        near = near + torch.einsum("bntyxc,ykc->bntyxk", maps, h)[..., None, :, None]
        near = near + torch.einsum("bntyxc,xkc->bntyxk", maps, w)[..., None, None, :]
        logits[:, :, 1:, 1:] += near.flatten(5).flatten(2, 4)
        x = logits.softmax(-1) @ v
        x[:, :, 1:] += q[:, :, 1:]
        return self.proj(x.transpose(1, 2).flatten(2)), q_grid


class MultiScaleBlock(nn.Module):
    def __init__(self, before, width, heads, strides, grid):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(size, eps=1e-6) for size in (before, width))
        self.attn = Attention(before, width, heads, strides, grid)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        if before != width:
            self.proj = nn.Linear(before, width)
        self.stride = strides[0]

    def forward(self, x, grid):
        y = self.norm1(x)
        attended, new = self.attn(y, grid)
        x = self.proj(y) if hasattr(self, "proj") else x
        if self.stride > 1:
            maps = x[:, 1:].unflatten(1, grid).movedim(-1, 1)
            stride = (1, self.stride, self.stride)
            maps = nn.functional.max_pool3d(maps, (1, 3, 3), stride, (0, 1, 1))
            x = torch.cat([x[:, :1], maps.flatten(2).transpose(1, 2)], dim=1)
        x = x + attended
        return x + self.mlp.fc2(nn.functional.gelu(self.mlp.fc1(self.norm2(x)))), new


class MViT(nn.Module):
    """Of three stages with 1, 2 and 1 blocks."""

    def __init__(self, frames, side):
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv3d(3, 6, (3, 7, 7), (2, 4, 4), (1, 3, 3))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 6))
        size = side // 4
        self.blocks = nn.ModuleList(
            MultiScaleBlock(before, width, heads, strides, (frames // 2, rows))
            for before, width, heads, strides, rows in (
                (6, 6, 1, (1, 4, 4), size),
                (6, 12, 2, (2, 2, 2), size),
                (12, 12, 2, (1, 2, 2), size // 2),
                (12, 24, 4, (2, 1, 1), size // 2),
            )
        )
        self.norm = nn.LayerNorm(24, eps=1e-6)
        self.head = nn.Module()
        self.head.projection = nn.Linear(24, CLASSES)

    def forward(self, x):
        x = self.patch_embed.proj(x)
        grid = x.shape[2:]
        tokens = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], dim=1)
        for block in self.blocks:
            x, grid = block(x, grid)
        return self.head.projection(self.norm(x)[:, 0])


def test_mvit(tmp_path):
    """Sides of 11, 6 and 3 tokens, for which tables are interpolated."""
    small = {"depths": (1, 2, 1), "width": 6, "kv_stride": 4, "clip": (6, 44)}
    found = arch("slowfast_mvit_v2_s", **small)
    model = random_transformer(MViT(6, 44))
    torch.save({"model_state": model.state_dict()}, tmp_path / "mvit.pyth")
    video = clips((2, 6, 44, 44, 3))
    state = torch_files.read(tmp_path / "mvit.pyth")
    logits, x = compare_logits("slowfast_mvit_v2_s", found, state, video, model)

    first = model.blocks[1].attn
    for one, other in (("rel_pos_h", "rel_pos_w"), ("norm_k", "norm_v"), ("pool_q", "pool_k")):
        exchanged = {one: getattr(first, other), other: getattr(first, one)}
        with mock.patch.multiple(first, **exchanged):
            assert deviation(logits, logits_of(model, x)) > 1e-3, one
    assert deviation(logits, logits_of(model, x)) < 1e-4
