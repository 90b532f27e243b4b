"""Opens the source of videos that a configuration names."""

from rstg_jax import sync_mnist
from rstg_jax.data.batches import Source
from rstg_jax.data.online import OnlineSyncMNIST
from rstg_jax.data.prepared import PreparedSyncMNIST
from rstg_jax.data.sync_mnist import SyncMNISTConfig
from rstg_jax.errors import UserError


def open_source(config: SyncMNISTConfig, split: str) -> Source:
    """Opens the source of a split ("train" or "test") that `config` names.

    Raises:
      UserError: If digits or prepared data are missing or damaged, with what to do.
    """
    if split not in sync_mnist.SPLITS:
        raise UserError(f"unknown split {split!r}: one of {', '.join(sync_mnist.SPLITS)}")
    if (config.train_source if split == "train" else config.test_source) == "online":
        return OnlineSyncMNIST(config, split)
    return PreparedSyncMNIST(config, split)
