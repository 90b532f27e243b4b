"""Data sets: configurations, sources of labelled videos, and batches of them."""

from rstg_jax.data.batches import (
    ENDLESS,
    AugmentedSource,
    Batch,
    Chosen,
    EncodedSource,
    OnDevice,
    Source,
    checked_batch,
    eval_batches,
    labelled,
    labels_of,
    refuse_endless,
    train_batches,
)
from rstg_jax.data.collisions import CollisionsConfig
from rstg_jax.data.cups import CupsConfig
from rstg_jax.data.dataset import DataConfig, Placement, check_source
from rstg_jax.data.features import FeaturesConfig
from rstg_jax.data.sync_mnist.config import SyncMNISTConfig
from rstg_jax.data.sync_mnist.online import OnlineSyncMNIST
from rstg_jax.data.video.boxes import BoxesConfig
from rstg_jax.data.video.clip_transforms import ClipConfig
from rstg_jax.data.video.folder import FolderConfig
from rstg_jax.data.video.listing import read_once
from rstg_jax.data.video.published import PublishedConfig
from rstg_jax.data.video.something_something import SomethingSomethingConfig

__all__ = [
    "ENDLESS",
    "AugmentedSource",
    "Batch",
    "BoxesConfig",
    "Chosen",
    "ClipConfig",
    "CollisionsConfig",
    "CupsConfig",
    "DataConfig",
    "EncodedSource",
    "FeaturesConfig",
    "FolderConfig",
    "OnDevice",
    "OnlineSyncMNIST",
    "Placement",
    "PublishedConfig",
    "SomethingSomethingConfig",
    "Source",
    "SyncMNISTConfig",
    "check_source",
    "checked_batch",
    "eval_batches",
    "labelled",
    "labels_of",
    "read_once",
    "refuse_endless",
    "train_batches",
]
