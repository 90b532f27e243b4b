"""Your own videos: one directory per label, or a csv file of `path;label` lines.

    python train.py --config=configs/folder.py --config.data.path=VIDEOS --workdir=DIR
    python -m rstg_jax.predict --workdir=DIR clip.mp4

VIDEOS/waving/a.mp4, VIDEOS/jumping/b.mov, ... in any container, codec, size and orientation that
PyAV reads. A fifth of them is held out for testing, unless `--config.data.test_path` names others.
If a clip is mirrored, left and right are swapped in its label (by English words in the name).

small    The default. A per-frame CNN on 112x112 and RSTG on its last map, from scratch; for a CPU.
         Its accuracy depends on your videos and has not been measured on a public data set.
ucf101, hmdb51, kinetics, diving48, jester, epic_kitchens_verbs, epic_kitchens_nouns,
cater_actions_present, cater_actions_order_uniq, cater_localize, clevrer_collisions,
perception_test_actions, perception_test_cups
         The same network on a public data set in the layout in which it is published:
         --config.data.path=VIDEOS --config.data.lists=LISTS, see docs/data.md. Not trained yet.
tiny     Takes seconds; the tests train it to classify three real videos.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import get_args

from rstg_jax import config
from rstg_jax.data import ClipConfig, FolderConfig, PublishedConfig
from rstg_jax.data.video.published import READERS, DataSet
from rstg_jax.models.backbones.simple_cnn import SimpleCNNConfig
from rstg_jax.models.config import ModelConfig
from rstg_jax.models.heads import NodePooling
from rstg_jax.rstg import presets
from rstg_jax.training.experiment import Experiment, TrainConfig
from rstg_jax.training.losses import LossConfig
from rstg_jax.training.optim import OptimizerConfig

CLIP = ClipConfig(
    frames=16,
    sampling="segments",
    resize=128,
    crop=112,
    crop_scales=(1.0, 0.875, 0.75, 0.66),
    flip=True,
)


def small() -> Experiment:
    """Training from scratch on few videos; the hyperparameters are not tuned."""
    return Experiment(
        name="folder small",
        model=ModelConfig(
            backbone=SimpleCNNConfig(
                features=(32, 64, 64),
                kernels=(7, 3, 3),
                strides=(4, 2, 2),
                padding="SAME",
                max_pool=False,
                norm=True,
                input_mean=114.75,
                input_scale=57.375,
                position_embedding=True,
            ),
            rstg=presets.modern(dim=64),
            head=NodePooling("mean"),
            dropout_rate=0.3,
        ),
        data=FolderConfig(clip=CLIP),
        optim=OptimizerConfig(
            "adamw", learning_rate=1e-3, warmup_steps=100, weight_decay=1e-2, clip_norm=1.0
        ),
        train=TrainConfig(
            total_epochs=30.0,
            batch_size=16,
            log_every=20,
            eval_every=200,
            checkpoint_every=200,
        ),
    )


def published(dataset: DataSet) -> Experiment:
    """The same on a public data set."""
    base, reader = small(), READERS[dataset]
    clip = dataclasses.replace(CLIP, flip=reader.mirrors)
    data = PublishedConfig(dataset=dataset, clip=clip)
    loss = LossConfig(kind="sigmoid" if reader.multi_label else "softmax")
    return dataclasses.replace(base, name=f"folder {dataset}", data=data, loss=loss)


def tiny() -> Experiment:
    """The smallest sizes, for the tests."""
    return config.override(
        small(),
        {
            "name": "folder tiny",
            "model.backbone.features": "16",
            "model.backbone.kernels": "5",
            "model.backbone.strides": "4",
            "model.rstg.dim": "16",
            "model.rstg.stages": "time,space,time",
            "model.dropout_rate": "0",
            "data.clip.frames": "4",
            "data.clip.resize": "40",
            "data.clip.crop": "32",
            "optim.learning_rate": "1e-2",
            "optim.warmup_steps": "0",
            "train.total_epochs": "none",
            "train.total_steps": "40",
            "train.batch_size": "8",
            "train.log_every": "10",
        },
    )


VARIANTS: dict[str, Callable[[], Experiment]] = {
    "small": small,
    **{name: functools.partial(published, name) for name in get_args(DataSet)},
    "tiny": tiny,
}


def get_config(variant: str = "small") -> Experiment:
    """Returns the experiment of a variant."""
    return config.choose(VARIANTS, variant)
