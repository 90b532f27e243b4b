"""Sources of labelled videos, and batches of them."""

from rstg_jax.data.batches import (
    ENDLESS,
    Batch,
    OnDevice,
    Source,
    Varied,
    checked_batch,
    eval_batches,
    refuse_endless,
    train_batches,
    video_shape,
)
from rstg_jax.data.clips import ClipConfig
from rstg_jax.data.folder import FolderConfig
from rstg_jax.data.online import OnlineSyncMNIST
from rstg_jax.data.something_something import SomethingSomethingConfig
from rstg_jax.data.sources import DataConfig, open_source
from rstg_jax.data.sync_mnist import SyncMNISTConfig, pair_boxes

__all__ = [
    "ENDLESS",
    "Batch",
    "ClipConfig",
    "DataConfig",
    "FolderConfig",
    "OnDevice",
    "OnlineSyncMNIST",
    "SomethingSomethingConfig",
    "Source",
    "SyncMNISTConfig",
    "Varied",
    "checked_batch",
    "eval_batches",
    "open_source",
    "pair_boxes",
    "refuse_endless",
    "train_batches",
    "video_shape",
]
