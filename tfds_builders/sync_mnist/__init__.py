"""SyncMNIST for TFDS; importing this package registers `tfds.builder("sync_mnist/digits5")`."""

from tfds_builders.sync_mnist.sync_mnist import SyncMNIST, SyncMNISTBuilderConfig

__all__ = ["SyncMNIST", "SyncMNISTBuilderConfig"]
