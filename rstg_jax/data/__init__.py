"""Sources of labelled videos, and batches of them."""

from rstg_jax.data.batches import (
    ENDLESS,
    AugmentedSource,
    Batch,
    OnDevice,
    Source,
    checked_batch,
    eval_batches,
    refuse_endless,
    train_batches,
    video_shape,
)
from rstg_jax.data.sources import DataConfig, open_source
from rstg_jax.data.sync_mnist.config import SyncMNISTConfig, pair_boxes
from rstg_jax.data.sync_mnist.online import OnlineSyncMNIST
from rstg_jax.data.video.clip_transforms import ClipConfig
from rstg_jax.data.video.folder import FolderConfig
from rstg_jax.data.video.something_something import SomethingSomethingConfig

__all__ = [
    "ENDLESS",
    "AugmentedSource",
    "Batch",
    "ClipConfig",
    "DataConfig",
    "FolderConfig",
    "OnDevice",
    "OnlineSyncMNIST",
    "SomethingSomethingConfig",
    "Source",
    "SyncMNISTConfig",
    "checked_batch",
    "eval_batches",
    "open_source",
    "pair_boxes",
    "refuse_endless",
    "train_batches",
    "video_shape",
]
