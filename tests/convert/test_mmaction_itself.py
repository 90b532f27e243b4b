"""mmaction2's own SlowFast, X3D and TRN, with few blocks, against ours with their weights.

Needs requirements-mmaction.txt. The package is imported in parts: as a whole it asks for compiled
operators and for files that its release lacks.
"""

import importlib
import itertools
import pathlib
import sys
import types

import pytest

from tests.convert import test_mmaction as written_out
from tests.torch_peers import (
    CLASSES,
    arch,
    clips,
    compare,
    compare_logits,
    nn,
    normalised,
    ours,
    torch,
)

mmaction = pytest.importorskip(
    "mmaction", reason="pip install --no-deps -r requirements-mmaction.txt"
)
pytestmark = pytest.mark.filterwarnings("ignore")  # it uses what PyTorch deprecates
DEPTHS = (1, 2, 1, 1)


@pytest.fixture(scope="module")
def part():
    """Imports a module of `mmaction.models` without the others."""
    root = pathlib.Path(mmaction.__file__).parent / "models"
    for name in ("", ".heads", ".backbones", ".utils", ".common"):
        package = types.ModuleType(f"mmaction.models{name}")
        package.__path__ = [str(root / name[1:])]
        sys.modules[package.__name__] = package
    importlib.import_module("mmaction.models.losses")
    return lambda name: importlib.import_module(f"mmaction.models.{name}")


class Whole(nn.Module):
    def __init__(self, backbone, cls_head):
        super().__init__()
        self.backbone, self.cls_head = backbone, cls_head

    def forward(self, x):
        return self.cls_head(self.backbone(x))


def slowfast(part, width, classes):
    """The network of `slowfast_r50_8xb8-8x8x1-256e_kinetics400-rgb.py`."""
    same = {"type": "resnet3d", "depth": 50, "pretrained": None, "conv1_stride_t": 1}
    same |= {"pool1_stride_t": 1, "norm_eval": False}
    slow = {"lateral": True, "conv1_kernel": (1, 7, 7), "inflate": (0, 0, 1, 1)}
    fast = {"lateral": False, "conv1_kernel": (5, 7, 7), "base_channels": width // 8}
    backbone = part("backbones.resnet3d_slowfast").ResNet3dSlowFast(
        pretrained=None,
        resample_rate=4,
        speed_ratio=4,
        channel_ratio=8,
        slow_pathway=same | slow | {"fusion_kernel": 7, "base_channels": width},
        fast_pathway=same | fast,
    )
    head = part("heads.slowfast_head").SlowFastHead(
        in_channels=36 * width, num_classes=classes, spatial_type="avg"
    )
    return Whole(backbone, head)


def x3d(part, classes, depth=2.2):
    """The network of `x3d_m_16x5x1_facebook-kinetics400-rgb.py`."""
    backbone = part("backbones.x3d").X3D(gamma_w=1, gamma_b=2.25, gamma_d=depth)
    head = part("heads.x3d_head").X3DHead(
        in_channels=432, num_classes=classes, spatial_type="avg", fc1_bias=False
    )
    return Whole(backbone, head)


def trn(part, classes):
    """The network of `trn_imagenet-pretrained-r50_8xb16-1x1x8-50e_sthv1-rgb.py`."""
    backbone = part("backbones.resnet").ResNet(depth=50, norm_eval=False)
    head = part("heads.trn_head").TRNHead(num_classes=classes, in_channels=2048)
    return Whole(backbone, head)


def test_names_and_shapes_are_those_written_out(part):
    with torch.device("meta"):
        found = {
            "slowfast": slowfast(part, 64, 400),
            "x3d": x3d(part, 400),
            "trn": trn(part, 174),
        }
    for name, model in found.items():
        shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
        assert written_out.digest(shapes) == written_out.DIGESTS[name]


def test_slowfast(part, monkeypatch):
    settings = part("backbones.resnet3d").ResNet3d.arch_settings
    monkeypatch.setitem(settings, 50, (settings[50][0], DEPTHS))
    torch.manual_seed(0)
    model = written_out.drawn(slowfast(part, 16, CLASSES))
    found, video = arch("mmaction_slowfast_r50", width=16, depths=DEPTHS), clips((2, 8, 64, 64, 3))
    compare_logits("mmaction2 SlowFast", found, written_out.state_of(model), video, model)


def test_x3d(part):
    torch.manual_seed(1)
    model = written_out.drawn(x3d(part, CLASSES, depth=0.4))
    found, video = arch("mmaction_x3d_m", depths=(1, 1, 2, 2)), clips((2, 4, 64, 64, 3))
    compare_logits("mmaction2 X3D", found, written_out.state_of(model), video, model)


def test_trn(part, monkeypatch):
    """Its relations on subsets that are chosen here: all, scaled to the number that it draws."""
    settings = part("backbones.resnet").ResNet.arch_settings
    monkeypatch.setitem(settings, 50, (settings[50][0], DEPTHS))
    torch.manual_seed(2)
    model = written_out.drawn(trn(part, CLASSES))
    found, video = arch("mmaction_trn_r50", depths=DEPTHS), clips((1, 8, 64, 64, 3))
    logits = ours(found, written_out.state_of(model), video)[1]
    head, total = model.cls_head, 0
    with torch.no_grad():
        maps = model.backbone(normalised(video, found)[0].transpose(0, 1))
        frames = head.fc_cls(maps.mean((2, 3)))
        for relation, size in zip(head.consensus.fc_fusion_scales, range(8, 1, -1), strict=True):
            subsets = list(itertools.combinations(range(8), size))
            outputs = torch.stack([relation(frames[list(s)].flatten()) for s in subsets])
            total = total + min(3, len(subsets)) * outputs.mean(0)
    compare("mmaction2 TRN", logits, total.numpy()[None])
