"""MFNet's motion block against our own transcription of the paper; nobody's code is published."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rstg_jax.errors import UserError
from rstg_jax.models.backbones import motion, resnet3d
from rstg_jax.models.backbones.motion import MotionBlock
from tests import torch_peers

torch, nn = torch_peers.torch, torch_peers.torch.nn


def transcribed(x, params, stats, offsets):
    """`[b c t h w]`: fixed depthwise kernels move the reduced map of the next frame."""
    weight = {
        name: torch.tensor(np.moveaxis(params[name]["kernel"][0], (-1, -2), (0, 1)))
        for name in ("reduce", "join")
    }
    frames = x.unbind(2)
    reduced = [nn.functional.conv2d(frame, weight["reduce"]) for frame in frames]
    out = []
    for t, frame in enumerate(frames):
        parts = [frame]
        for row, column in offsets:
            kernel = torch.zeros(reduced[t].shape[1], 1, 3, 3)
            kernel[:, 0, 1 - row, 1 - column] = 1
            if t + 1 < len(frames):
                moved = nn.functional.conv2d(reduced[t + 1], kernel, padding=1, groups=len(kernel))
                parts.append(moved - reduced[t])
            else:
                parts.append(torch.zeros_like(reduced[t]))
        joined = nn.functional.conv2d(torch.cat(parts, 1), weight["join"])
        norm = [torch.tensor(np.asarray(stats[key])) for key in ("mean", "var")]
        norm += [torch.tensor(np.asarray(params["join_bn"][key])) for key in ("scale", "bias")]
        out.append(nn.functional.batch_norm(joined, *norm, eps=1e-5).relu())
    return torch.stack(out, 2)


def test_motion_block():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 6, 5, 32)).astype(np.float32)
    block = MotionBlock()
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), x, train=False))
    variables = jax.tree.map(
        lambda leaf: (
            rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
            if leaf.ndim == 1
            else (rng.normal(size=leaf.shape) * np.sqrt(2 / leaf.shape[-2])).astype(np.float32)
        ),
        shapes,
    )
    found = np.asarray(block.apply(variables, x, train=False))
    stats = variables["batch_stats"]["join_bn"]
    params, clip = variables["params"], torch.tensor(np.moveaxis(x, -1, 1))

    def wanted(offsets):
        return np.moveaxis(transcribed(clip, params, stats, offsets).numpy(), 1, -1)

    offsets = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)]
    torch_peers.compare("motion block", found, wanted(offsets))
    wrong = wanted([offsets[0], *offsets[:0:-1]])
    assert np.abs(found - wrong).max() > 0.01 * np.abs(found).max()


def test_a_moving_dot_is_still_at_its_offset():
    """It moves one column to the left a frame: moved one to the right again, nothing is left."""
    x = np.zeros((1, 3, 5, 7, 1), np.float32)
    for t in range(3):
        x[0, t, 2, 5 - t] = 1
    still = [not np.any(y) for y in motion.differences(jnp.asarray(x))]
    assert dict(zip(motion.OFFSETS, still, strict=True))[(0, 1)] and sum(still) == 1


def test_places_of_mfnet():
    config = resnet3d.mfnet(depths=(1, 2, 1, 1), width=4)
    assert config.motion == ("res2.0", "res3.1", "res4.0", "res5.0")
    video = jax.ShapeDtypeStruct((1, 2, 32, 32, 3), np.uint8)
    shapes = jax.eval_shape(config.build(jnp.float32, None).init, jax.random.key(0), video)
    assert {name for name in shapes["params"] if name.endswith("motion")} == {
        *("res2_0_motion", "res3_1_motion", "res4_0_motion", "res5_0_motion")
    }
    assert shapes["params"]["res5_0_motion"]["join"]["kernel"].shape == (1, 1, 1, 128 + 40, 128)
    with pytest.raises(UserError, match="no place 'res6'"):
        dataclasses.replace(config, motion=("res6",))
