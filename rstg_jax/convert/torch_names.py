"""The networks that other projects publish."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Self

from rstg_jax.convert import (
    inception_names,
    mvit_names,
    slowfast_names,
    tsn_names,
    vit_names,
    x3d_names,
)
from rstg_jax.convert.fit import Names
from rstg_jax.convert.resnet_names import MMACTION, PYTORCHVIDEO, SLOWFAST, TORCHVISION, TSM
from rstg_jax.models.backbones import BackboneConfig, inception, pixels, resnet3d, videoprism, vit
from rstg_jax.models.backbones.eco import ECOConfig
from rstg_jax.models.backbones.mvit import MViTConfig
from rstg_jax.models.backbones.slowfast import SlowFastConfig
from rstg_jax.models.backbones.x3d import X3DConfig
from rstg_jax.models.config import ViewAverage
from rstg_jax.models.heads import (
    AttentivePooling,
    ClassToken,
    GlobalPooling,
    HeadConfig,
    NormedPooling,
    ProjectedPooling,
    RelationHead,
)

Channels = Literal["rgb", "bgr"]


@dataclasses.dataclass(frozen=True)
class Arch:
    """A network that files are for, and how its publishers fed and tested it.

    Attributes:
      names: of its tensors.
      backbone: its layers and input range.
      frames: number of frames that it was trained with (ImageNet's: a usual number).
      stride: distance of these frames; None for one of each of as many segments of the video.
      head: behind them; the mean of the last map by default.
      crop: side of the frames.
      view_average: see `ModelConfig`.
      channels: order of the colours that the tensors expect; after conversion it is always RGB.
      protocol: of the publishers' tests, see `rstg_jax.inference.protocols`; "center" also where
        theirs has places that we do not have.
      resize: shorter side of the frames before the crop; in the proportion 256 to 224 if None.
      of_classes: fields that are others in files with some numbers of classes, by which one can
        tell the data set: 174 are Something-Something, 157 Charades, 400 Kinetics.
    """

    names: Names
    backbone: BackboneConfig
    frames: int
    stride: int | None = None
    head: HeadConfig = dataclasses.field(default_factory=GlobalPooling)
    crop: int = 224
    view_average: ViewAverage = "logits"
    channels: Channels = "rgb"
    protocol: str = "center"
    resize: int | None = None
    of_classes: Mapping[int, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def with_classes(self, classes: int) -> Self:
        """The network of a file with so many classes."""
        return dataclasses.replace(self, **self.of_classes.get(classes, {}))


SOMETHING_SOMETHING, CHARADES, KINETICS = 174, 157, 400
# Meta's tests on Kinetics: three crops as high as the frame, of ten clips.
DENSE = "3x10-256"
# REVERSE_INPUT_CHANNEL in PySlowFast's configurations, which trained PyTorchVideo's files, too. It
# takes segments of Something-Something, and of 30 views of Charades the maximum (ENSEMBLE_METHOD).
META: dict[int, Mapping[str, Any]] = {
    SOMETHING_SOMETHING: {"channels": "bgr", "stride": None, "protocol": "3x1-256"},
    CHARADES: {"channels": "bgr", "protocol": DENSE, "view_average": "max"},
}
# TSM's "accurate setting", and VideoMAE's; TSM's files for Kinetics were sampled in two ways.
TWICE: dict[int, Mapping[str, Any]] = {SOMETHING_SOMETHING: {"protocol": "tsm"}}
OFFICIAL_HEAD = GlobalPooling(pool_window=14)


def _archs() -> dict[str, Arch]:
    """ResNets by name: PROJECT_KIND_DEPTH."""
    # Both Kinetics families of Meta use mean 0.45 and deviation 0.225 of pixels 0..1.
    meta: dict[str, Any] = {
        "input_mean": pixels.OFFICIAL_MEAN,
        "input_scale": pixels.OFFICIAL_SCALE,
    }
    mm: dict[str, Any] = {"stem_stride": (2, 2, 2), "pool1_stride": 2}
    tests: dict[str, Any] = {"protocol": DENSE, "of_classes": META}
    archs = {
        "imagenet_c2d": Arch(TORCHVISION, resnet3d.imagenet(), 8),
        "imagenet_i3d": Arch(TORCHVISION, resnet3d.kinetics("i3d"), 8),
        "pytorchvideo_c2d": Arch(PYTORCHVIDEO, resnet3d.kinetics("c2d", **meta), 8, 8, **tests),
        "pytorchvideo_i3d": Arch(PYTORCHVIDEO, resnet3d.kinetics("i3d", **meta), 8, 8, **tests),
        "slowfast_c2d": Arch(SLOWFAST, resnet3d.kinetics("c2d", **meta), 8, 8, **tests),
        "slowfast_i3d": Arch(SLOWFAST, resnet3d.kinetics("i3d", **meta), 8, 8, **tests),
        "slowfast_nl_i3d": Arch(SLOWFAST, resnet3d.kinetics("nl_i3d", **meta), 8, 8, **tests),
        "slowfast_slow": Arch(SLOWFAST, resnet3d.slow_only(), 8, 8, **tests),
        "mmaction_i3d": Arch(MMACTION, resnet3d.kinetics("i3d", **mm), 32, 2, protocol=DENSE),
        "mmaction_nl_i3d": Arch(
            MMACTION,
            resnet3d.kinetics("nl_i3d", non_local_pool="after", **mm),
            32,
            2,
            protocol=DENSE,
        ),
    }
    kinds: tuple[resnet3d.Kind, ...] = ("c2d", "i3d", "nl_i3d")
    archs |= {
        f"nonlocal_net_{kind}": Arch(
            SLOWFAST, resnet3d.official(kind), 32, 2, OFFICIAL_HEAD, protocol=DENSE
        )
        for kind in kinds
    }
    archs |= {
        "pytorchvideo_slow": Arch(PYTORCHVIDEO, resnet3d.slow_only(), 8, 8, **tests),
        "mit_tsm": Arch(TSM, resnet3d.tsm(), 8, of_classes=TWICE),
        "mmaction_tsm": Arch(MMACTION, resnet3d.tsm(), 8, of_classes=TWICE),
    }
    r101: dict[str, Any] = {"depths": (3, 4, 23, 3)}
    deep = {
        f"{name}_r101": dataclasses.replace(
            arch, backbone=dataclasses.replace(arch.backbone, **r101)
        )
        for name, arch in archs.items()
        if name in ("imagenet_c2d", "imagenet_i3d", "slowfast_c2d", "slowfast_i3d")
    }
    tsm = resnet3d.tsm(shift_every=2, **r101)
    deep["mit_tsm_r101"] = dataclasses.replace(archs["mit_tsm"], backbone=tsm)
    return {f"{name}_r50": arch for name, arch in archs.items()} | deep


# Frames of I3D as in DeepMind's paper, of TSN as in its tests, in training they are fewer; S3D's as
# their projects state. TSN's and TRN's tests average logits.
WINDOW = GlobalPooling(pool_window=7)
TSN = inception_names.BNInception("base_model.", "new_fc")
CAFFE: dict[str, Any] = {"channels": "bgr"}
INCEPTIONS = {
    "imagenet_bn_inception": Arch(
        inception_names.BNInception(), inception.bn_inception(), 8, **CAFFE
    ),
    "tsn_bn_inception": Arch(TSN, inception.bn_inception(), 25, protocol="tsn", **CAFFE),
    "trn_bn_inception": Arch(
        tsn_names.TRN(TSN),
        inception.bn_inception(),
        8,
        head=RelationHead(),
        protocol="tsn",
        **CAFFE,
    ),
    "eco_lite": Arch(tsn_names.ECO(TSN), ECOConfig(), 16, **CAFFE),
    "deepmind_i3d": Arch(inception_names.DeepMindCheckpoint(), inception.i3d(), 64, 1, WINDOW),
    "piergiaj_i3d": Arch(inception_names.PiergiajI3D(), inception.i3d(), 64, 1, WINDOW),
    "torchvision_s3d": Arch(inception_names.TorchvisionS3D(), inception.s3d(), 128, 2, WINDOW),
    "howto100m_s3dg": Arch(inception_names.HowTo100M(), inception.howto100m(), 32, 3),
}


# Depths of X3D by the letter of its size, and frames, stride and crop of its clips.
X3DS = {
    "xs": ((3, 5, 11, 7), 4, 12, 160),
    "s": ((3, 5, 11, 7), 13, 6, 160),
    "m": ((3, 5, 11, 7), 16, 5, 224),
    "l": ((5, 10, 25, 15), 16, 5, 312),
}


def _slowfast_and_x3d() -> dict[str, Arch]:
    """Of PyTorchVideo and of PySlowFast."""
    x3d = x3d_names.PYTORCHVIDEO, X3DConfig()
    theirs = x3d_names.PYSLOWFAST, X3DConfig(shortcut_norms="all")
    archs = {}
    for size, (depths, frames, stride, crop) in X3DS.items():
        for project, (names, config) in (("pytorchvideo", x3d), ("slowfast", theirs)):
            archs[f"{project}_x3d_{size}"] = Arch(
                names,
                dataclasses.replace(config, depths=depths),
                frames,
                stride,
                ProjectedPooling(),
                crop=crop,
                protocol=f"3x10-{crop * 256 // 224}",
            )
    named = {
        "pytorchvideo": slowfast_names.PyTorchVideoNames(),
        "slowfast": slowfast_names.PySlowFastNames(),
    }
    for project, network in named.items():
        other: dict[int, Mapping[str, Any]] = {}
        if project == "slowfast":  # 16x8; that of Something-Something is tested on one crop
            other = {SOMETHING_SOMETHING: {"frames": 64, "protocol": "1x1-256"}}
            other[CHARADES] = {"frames": 64}
        tests = {classes: {**META[classes], **other.get(classes, {})} for classes in META}
        archs[f"{project}_slowfast_r50"] = Arch(
            network, SlowFastConfig(), 32, 2, protocol=DENSE, of_classes=tests
        )
    return archs


def _mmaction() -> dict[str, Arch]:
    """Of mmaction2, beside its ResNets; X3D's weights are Meta's."""
    imagenet: dict[str, Any] = {
        "input_mean": pixels.IMAGENET_MEAN,
        "input_scale": pixels.IMAGENET_SCALE,
        "lateral_norms": False,
        "slow_frames": "starts",
    }
    trn = tsn_names.TRN(MMACTION, consensus="cls_head.consensus")
    archs = {
        "mmaction_trn_r50": Arch(trn, resnet3d.imagenet(), 8, head=RelationHead(), of_classes=TWICE)
    }
    for name, speed, kernel in (("slowfast_r50", 4, 7), ("slowfast_4x16_r50", 8, 5)):
        archs[f"mmaction_{name}"] = Arch(
            slowfast_names.MMActionNames(),
            SlowFastConfig(speed=speed, lateral_kernel=kernel, **imagenet),
            frames=32,
            stride=2,
            protocol=DENSE,
        )
    metas = _slowfast_and_x3d()
    for size in ("s", "m"):
        archs[f"mmaction_x3d_{size}"] = dataclasses.replace(
            metas[f"slowfast_x3d_{size}"],
            names=x3d_names.MMACTION,
            backbone=X3DConfig(shortcut_norms="all", input_scale=(57.38,) * 3),
        )
    return archs


def _transformers() -> dict[str, Arch]:
    """VideoMAE as for Something-Something; V-JEPA 2 with the probes that were published."""
    archs = {}
    names = vit_names.ViTNames(vit_names.VIDEOMAE)
    alone = dataclasses.replace(names, encoder_only=True)
    sizes: tuple[vit.Size, ...] = ("s", "b", "l")
    tests = TWICE | {KINETICS: {"stride": 4, "protocol": "3x5"}}
    for size in sizes:
        archs[f"videomae_{size}"] = Arch(
            names,
            vit.videomae(size),
            16,
            head=NormedPooling(),
            resize=224,
            of_classes=tests,
        )
        pretrained = vit.videomae(size, final_norm=True)
        archs[f"videomae_{size}_encoder"] = Arch(alone, pretrained, 16)
        for name, table in ((f"videomae_{size}", names), (f"videomae_{size}_encoder", alone)):
            theirs = dataclasses.replace(table, renamed=vit_names.VIDEOMAE_RENAMED)
            archs[f"mcg_{name}"] = dataclasses.replace(archs[name], names=theirs)
    names, alone = (dataclasses.replace(x, modules=vit_names.VJEPA2) for x in (names, alone))
    # Probes have 16 heads in Meta's configurations; transformers gives that of g the encoder's 22.
    two = {SOMETHING_SOMETHING: {"protocol": "3x2"}}
    archs["vjepa2_l"] = Arch(
        names, vit.vjepa2("l"), 16, 4, AttentivePooling(), crop=256, of_classes=two
    )
    archs["vjepa2_g"] = Arch(names, vit.vjepa2("g"), 64, 2, AttentivePooling(), crop=384)
    sizes = ("l", "h", "g")
    for size in sizes:
        archs[f"vjepa2_{size}_encoder"] = Arch(alone, vit.vjepa2(size), 16, 4, crop=256)
    prism = vit_names.VideoPrismNames(vit_names.VIDEOPRISM, encoder_only=True)
    for size, frames in (("b", 16), ("l", 8)):
        network = videoprism.base() if size == "b" else videoprism.large()
        archs[f"videoprism_{size}_encoder"] = Arch(prism, network, frames, crop=288)
    return archs


MVITS = {
    f"{project}_mvit_v2_s": Arch(
        mvit_names.MViTNames(table), MViTConfig(), 16, 4, ClassToken(), protocol="1x5"
    )
    for project, table in (
        ("torchvision", mvit_names.TORCHVISION),
        ("slowfast", mvit_names.PYSLOWFAST),
    )
}
# Only PySlowFast has one for Something-Something.
MVITS["slowfast_mvit_v2_s"] = dataclasses.replace(
    MVITS["slowfast_mvit_v2_s"],
    of_classes={SOMETHING_SOMETHING: {**META[SOMETHING_SOMETHING], "protocol": "3x1"}},
)


# Projects that average the probabilities of views, where the others average logits.
AVERAGE_SOFTMAX = (
    *("slowfast_", "nonlocal_net_", "pytorchvideo_", "videomae_", "vjepa2_"),
    *("torchvision_mvit_", "mcg_videomae_", "mmaction_"),
)
ARCHS = {
    name: dataclasses.replace(arch, view_average="softmax")
    if name.startswith(AVERAGE_SOFTMAX)
    else arch
    for name, arch in (
        _archs() | INCEPTIONS | _slowfast_and_x3d() | _mmaction() | _transformers() | MVITS
    ).items()
}
