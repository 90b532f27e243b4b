"""PyTorchVideo's newer networks, narrow and with random weights, against ours with these converted.

Each comparison is repeated with a mistake, which must be noticed.
"""

from unittest import mock

import pytest

from rstg_jax.errors import UserError
from rstg_jax.models.backbones import slowfast
from rstg_jax.models.backbones.slowfast import SlowFastConfig
from rstg_jax.models.backbones.x3d import X3DConfig, in_eights
from tests import torch_peers
from tests.torch_peers import (
    CLASSES,
    MISTAKE,
    arch,
    arrays,
    clips,
    compare,
    compare_logits,
    deviation,
    he_normal,
    logits_of,
    nn,
    normalised,
    ours,
    randomise,
    torch,
)


@pytest.fixture(scope="module")
def models():
    return torch_peers.pytorchvideo()


@pytest.mark.parametrize("classes", [CLASSES, 174])
def test_slow_only(models, monkeypatch, classes):
    """With the 174 classes of Something-Something its clips are BGR, ours RGB as always."""
    torch.manual_seed(0)
    monkeypatch.setitem(models.resnet._MODEL_STAGE_DEPTH, 8, (1, 2, 1, 1))
    model = models.resnet.create_resnet(
        model_depth=8,
        stem_conv_kernel_size=(1, 7, 7),
        stem_dim_out=8,
        model_num_class=classes,
        head_pool_kernel_size=(4, 2, 2),
        stage_conv_a_kernel_size=((1, 1, 1), (1, 1, 1), (3, 1, 1), (3, 1, 1)),
    )
    model = he_normal(randomise(model))
    found, video = (
        arch("pytorchvideo_slow_r50", width=8, depths=(1, 2, 1, 1)),
        clips((2, 4, 64, 64, 3)),
    )
    logits = ours(found, arrays(model.state_dict()), video)[1]
    theirs = video[..., ::-1] if classes == 174 else video
    compare("pytorchvideo_slow_r50 logits", logits, logits_of(model, normalised(theirs, found)))
    for wrong in (theirs[:, ::-1], theirs[..., ::-1]):
        assert deviation(logits, logits_of(model, normalised(wrong, found))) > MISTAKE


def test_slowfast(models, monkeypatch):
    torch.manual_seed(1)
    monkeypatch.setitem(models.slowfast._MODEL_STAGE_DEPTH, 8, (1, 2, 1, 1))
    model = models.slowfast.create_slowfast(
        model_depth=8,
        slowfast_fusion_conv_kernel_size=(7, 1, 1),
        stem_dim_outs=(16, 2),
        model_num_class=CLASSES,
        head_pool_kernel_sizes=((3, 2, 2), (12, 2, 2)),
    )
    model = he_normal(randomise(model))
    found, video = (
        arch("pytorchvideo_slowfast_r50", width=16, depths=(1, 2, 1, 1)),
        clips((2, 12, 64, 64, 3)),
    )
    logits = ours(found, arrays(model.state_dict()), video)[1]
    x = normalised(video, found)
    slow = slowfast.slow_frames(12, 4)
    assert slow.tolist() == [0, 5, 11]
    compare("pytorchvideo_slowfast_r50 logits", logits, logits_of(model, [x[:, :, slow], x]))
    assert deviation(logits, logits_of(model, [x[:, :, ::4], x])) > MISTAKE
    assert deviation(logits, logits_of(model, [x[:, :, slow], x.flip(2)])) > MISTAKE


def test_x3d(models):
    torch.manual_seed(2)
    model = models.x3d.create_x3d(
        stem_dim_in=4,
        depth_factor=0.4,
        model_num_class=CLASSES,
        input_clip_length=4,
        input_crop_size=64,
        head_dim_out=40,
    )
    model = he_normal(randomise(model))
    model.blocks[5].activation = None  # softmax, in evaluation
    found = arch("pytorchvideo_x3d_s", depths=(1, 1, 2, 2), width=8)
    found = torch_peers.with_head(found, dim=40)
    video = clips((2, 4, 64, 64, 3))
    state = arrays(model.state_dict())
    logits, x = compare_logits("pytorchvideo_x3d", found, state, video, model)
    block = model.blocks[3].res_blocks[0].branch2
    for name, wrong in (("act_b", nn.ReLU()), ("norm_b", block.norm_b[0])):  # the latter: no gate
        with mock.patch.object(block, name, wrong):
            assert deviation(logits, logits_of(model, x)) > MISTAKE, name


def test_channels_of_gates():
    assert [in_eights(inner / 16) for inner in (54, 108, 216, 432)] == [8, 8, 16, 32]


def test_bad_input():
    with pytest.raises(UserError, match="SlowFast needs a multiple of 4 frames, the clip has 10"):
        slowfast.slow_frames(10, 4)
    with pytest.raises(UserError, match="width at least fast_share"):
        SlowFastConfig(width=4)
    with pytest.raises(UserError, match="lateral_kernel=4 must be odd"):
        SlowFastConfig(lateral_kernel=4)
    with pytest.raises(UserError, match="no place 'res9'"):
        SlowFastConfig().resolve("res9")
    with pytest.raises(UserError, match="depths and width must be at least 1"):
        X3DConfig(width=0)
