"""Sources of labelled videos, and batches of them."""

from rstg_jax.data.batches import (
    ENDLESS,
    Batch,
    Source,
    checked_batch,
    eval_batches,
    refuse_endless,
    train_batches,
)
from rstg_jax.data.online import OnlineSyncMNIST
from rstg_jax.data.sources import open_source
from rstg_jax.data.sync_mnist import SyncMNISTConfig, pair_boxes

__all__ = [
    "ENDLESS",
    "Batch",
    "OnlineSyncMNIST",
    "Source",
    "SyncMNISTConfig",
    "checked_batch",
    "eval_batches",
    "open_source",
    "pair_boxes",
    "refuse_endless",
    "train_batches",
]
