"""Your own videos: one directory a label, or a csv file of `path;label` lines.

    python train.py --config=configs/folder.py --config.data.path=VIDEOS --workdir=DIR
    python -m rstg_jax.predict --workdir=DIR clip.mp4

VIDEOS/waving/a.mp4, VIDEOS/jumping/b.mov, ... in any container, codec, size and orientation that
PyAV reads; a fifth of them is set apart for testing, or give `--config.data.test_path`. Mirrored
clips have left and right swapped in the names of their labels, where there are such names.

small    A per-frame CNN on 112x112 and RSTG on its last map, from scratch; for a CPU. How well it
         does depends on your videos and has not been measured on a known set.
tiny     Seconds, for the tests, which train it to tell three real films apart.
"""

from rstg_jax import config
from rstg_jax.data import ClipConfig, FolderConfig
from rstg_jax.models.backbones.simple_cnn import SimpleCNNConfig
from rstg_jax.models.classifier import ModelConfig
from rstg_jax.models.heads import NodePooling
from rstg_jax.rstg import presets
from rstg_jax.training.experiment import Experiment, TrainConfig
from rstg_jax.training.optim import OptimizerConfig


def small() -> Experiment:
    """From scratch on few videos; the recipe is a first guess."""
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
        data=FolderConfig(
            clip=ClipConfig(
                frames=16,
                sampling="segments",
                resize=128,
                crop=112,
                crop_scales=(1.0, 0.875, 0.75, 0.66),
                flip=True,
            )
        ),
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


def tiny() -> Experiment:
    """Everything at its smallest."""
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


VARIANTS = {"small": small, "tiny": tiny}


def get_config(variant: str = "small") -> Experiment:
    """Returns the experiment of a variant."""
    return config.choose(VARIANTS, variant)
