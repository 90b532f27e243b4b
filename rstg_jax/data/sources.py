"""Opens the source of videos that a configuration names."""

from rstg_jax.data.batches import Source
from rstg_jax.data.sync_mnist import generator
from rstg_jax.data.sync_mnist.config import SyncMNISTConfig
from rstg_jax.data.sync_mnist.online import OnlineSyncMNIST
from rstg_jax.data.sync_mnist.prepared import PreparedSyncMNIST
from rstg_jax.data.video.folder import FolderConfig, open_folder
from rstg_jax.data.video.something_something import (
    SomethingSomethingConfig,
    open_something_something,
)
from rstg_jax.errors import UserError

DataConfig = SyncMNISTConfig | SomethingSomethingConfig | FolderConfig


def open_source(config: DataConfig, split: str) -> Source:
    """Opens the source of a split ("train" or "test") that `config` names.

    Raises:
      UserError: If digits, videos or prepared data are missing or damaged, with what to do.
    """
    if split not in generator.SPLITS:
        raise UserError(f"unknown split {split!r}: one of {', '.join(generator.SPLITS)}")
    if isinstance(config, SomethingSomethingConfig):
        return open_something_something(config, split)
    if isinstance(config, FolderConfig):
        return open_folder(config, split)
    videos_from = config.train_source if split == "train" else config.test_source
    if videos_from == "online":
        return OnlineSyncMNIST(config, split)
    if videos_from == "device":
        # Imports JAX, which those who only read or prepare videos do without.
        from rstg_jax.data.sync_mnist.on_device import DeviceSyncMNIST

        return DeviceSyncMNIST(config)
    return PreparedSyncMNIST(config, split)
