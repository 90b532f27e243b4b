"""Feature maps that `rstg_jax.features` stored, in the place of videos.

A directory, local or in a bucket, holds the shards of one or more splits. SPLIT.json, a
`StoredSplit`, describes a split and is there when all its shards are. A record is a .safetensors
file of three arrays: `features` `[t h w c]`, `label` int32 `[]` (-1 if unknown) and `id` uint8
`[n]`, a text in UTF-8. Other code may write such directories as well.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import ml_dtypes
import numpy as np
import safetensors
from safetensors.numpy import save

from rstg_jax import config, files, storage
from rstg_jax.data import array_records
from rstg_jax.data.batches import Batch
from rstg_jax.data.dataset import DataConfig, check_split
from rstg_jax.data.video import decode
from rstg_jax.errors import UserError, reason, translated

NETWORK = "network.safetensors"  # the network that made the maps, beside them
COMMAND = "python -m rstg_jax.features"
REMEDY = f"delete it and run {COMMAND} again, which makes what is missing"
DType = Literal["float16", "bfloat16", "float32"]
DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
}
_MAX_SHARDS = 99_999  # their numbers have five digits


@dataclasses.dataclass(frozen=True)
class StoredSplit:
    """Description of a stored split, the content of SPLIT.json.

    Attributes:
      split: Name of the split.
      shape: Of a feature map, `(t, h, w, c)`.
      dtype: Of its values.
      examples: Number of clips.
      shard_size: Number of clips in every shard but the last, which may have fewer.
      labelled: Whether labels are known.
      label_names: Name of each label.
      network: `name`, `model` and `data` of the experiment whose network made the maps.
      config_hash: Of that experiment.
      weights: Where its weights came from, and their checksum `sha256`.
      videos: Provenance of the videos.
      format: Of directory and records.
    """

    split: str
    shape: tuple[int, int, int, int]
    dtype: DType
    examples: int
    shard_size: int
    labelled: bool
    label_names: tuple[str, ...]
    network: Any
    config_hash: str
    weights: Any
    videos: Any
    format: Literal["rstg_jax features 1"] = "rstg_jax features 1"

    def __post_init__(self) -> None:
        if min(*self.shape, self.examples, self.shard_size, len(self.label_names)) < 1:
            raise UserError("shape, examples, shard_size and label_names cannot be empty or 0")
        if self.num_shards > _MAX_SHARDS:
            raise UserError(f"{self.num_shards} shards are more than {_MAX_SHARDS}")
        if not all(isinstance(part, Mapping) for part in (self.network, self.weights, self.videos)):
            raise UserError("network, weights and videos must be objects")

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return -(-self.examples // self.shard_size)

    def clips(self, shard: int) -> range:
        """The clips in a shard."""
        first = shard * self.shard_size
        return range(first, min(first + self.shard_size, self.examples))

    def path(self, directory: storage.Path, shard: int) -> storage.Path:
        """Path of a shard."""
        name = f"{self.split}.array_record-{shard:05d}-of-{self.num_shards:05d}"
        return directory / name

    def missing(self, directory: storage.Path) -> list[int]:
        """Numbers of the shards that are not there."""
        there = {*storage.names_in(directory)}
        shards = range(self.num_shards)
        return [shard for shard in shards if self.path(directory, shard).name not in there]

    def check_shards(self, directory: storage.Path) -> None:
        """Raises `UserError` that names the first shard that is damaged or missing.

        In a bucket, where files appear whole or not at all, only missing ones are found.
        """
        if storage.in_bucket(directory):
            for shard in self.missing(directory):
                raise UserError(f"{self.path(directory, shard)}: the shard is missing; {REMEDY}")
            return
        shards = range(self.num_shards)
        paths = [str(self.path(directory, shard)) for shard in shards]
        array_records.check_shards(paths, [len(self.clips(shard)) for shard in shards], REMEDY)


def read_description(path: storage.Path) -> StoredSplit:
    """Reads a SPLIT.json; raises `UserError` if there is none or it is damaged."""
    content = files.read_json(path)
    try:
        return config.from_dict(StoredSplit, content)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: does not describe stored features ({reason(error)})") from error


@functools.cache
def _copied(place: str) -> pathlib.Path:
    """A local copy of a directory in a bucket, as it is when a process first asks for it."""
    return array_records.at_hand(storage.path(place), "*.json")


def encode(features: np.ndarray, label: int, name: str) -> bytes:
    """The record of a clip: feature map `[t h w c]`, label, and id."""
    arrays = {
        "features": np.ascontiguousarray(features),
        "label": np.array(label, np.int32),
        "id": np.frombuffer(name.encode(), np.uint8),
    }
    return save(arrays)


@dataclasses.dataclass(frozen=True)
class FeaturesConfig(DataConfig):
    """Stored feature maps; for models whose backbone is an `IdentityConfig`.

    Attributes:
      path: Directory that `python -m rstg_jax.features` wrote; one in a bucket is copied first.
      test_split: Name of the split that is tested on; if empty, the only one besides train.
    """

    pictures: ClassVar[bool] = False
    may_differ: ClassVar[tuple[str, ...]] = ("path",)

    path: str = ""
    test_split: str = ""

    @property
    def directory(self) -> pathlib.Path:
        """The directory, or a local copy of one in a bucket.

        Raises:
          UserError: There is none, or it cannot be copied.
        """
        place = storage.path(self.path)
        directory = place if isinstance(place, pathlib.Path) else _copied(self.path)
        if not self.path or not directory.is_dir():
            raise UserError(
                f"path={self.path!r} is no directory: store feature maps with `{COMMAND} "
                "--config=... --out=DIR` and set path=DIR"
            )
        return directory

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that are there."""
        return tuple(sorted(path.stem for path in self.directory.glob("[!.]*.json")))

    def described(self, split: str) -> StoredSplit:
        """Description of a split by its own name; raises `UserError` if it is not there."""
        if split not in self.splits:
            there = ", ".join(self.splits) or "none that is finished"
            raise UserError(
                f"{self.directory}: has no split {split!r}; there are: {there}. {COMMAND} makes it"
            )
        return read_description(self.directory / f"{split}.json")

    @property
    def tested(self) -> str:
        """Name of the split that is tested on.

        Raises:
          UserError: There are several, or there is none.
        """
        if self.test_split:
            return self.test_split
        others = [split for split in self.splits if split != "train"]
        if len(others) != 1:
            raise UserError(
                f"{self.directory}: set test_split to the split to test on; there are: "
                f"{', '.join(self.splits) or 'none that is finished'}"
            )
        return others[0]

    @property
    def _any(self) -> StoredSplit:
        """Description of a split that is there: some facts are the same for all."""
        return self.described("train" if "train" in self.splits else self.tested)

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        return self._any.shape

    @property
    def num_classes(self) -> int:
        return len(self._any.label_names)

    def open(self, split: str) -> "StoredFeatures":
        check_split(split)
        name = self.tested if split == "test" else split
        return StoredFeatures(self.directory, self.described(name))

    def with_split(self, split: str | None) -> tuple[Self, str, str]:
        split = split or self.tested
        self.described(split)
        if split == "train":
            return self, split, split
        return dataclasses.replace(self, test_split=split), "test", split

    def with_official_labels(self) -> Self:
        raise UserError("stored features do not keep the official numbers of labels, only names")

    def read_video(self, frames: decode.Frames) -> np.ndarray:
        raise UserError(
            "the model reads stored feature maps: give their network to it with python -m "
            "rstg_jax.convert.export --workdir=RUN --out=FILE.safetensors, and predict with "
            "--weights=FILE.safetensors"
        )

    def describe(
        self, label_names: Sequence[str], provenance: Mapping[str, Mapping[str, Any]]
    ) -> tuple[str, ...]:
        network = provenance.get("test", {}).get("network", "another network")
        return (
            f"Every video has one of {len(label_names)} labels, such as “{label_names[0]}” and "
            f"“{label_names[-1]}”. The network is shown the feature maps that {network} made of "
            "it, and names the label. These are no pictures: no videos are shown.",
        )


class StoredFeatures:
    """A split of stored feature maps; satisfies `Source`.

    Raises:
      UserError: A shard is missing or damaged.
    """

    def __init__(self, directory: pathlib.Path, stored: StoredSplit):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        stored.check_shards(directory)
        self.name = f"features of the {stored.split} split in {directory}"
        self.label_names, self.labelled = stored.label_names, stored.labelled
        sums = {name: text for name, text in stored.videos.items() if "sha256" in name}
        self.provenance: dict[str, str | int | float] = {
            **sums,
            "videos_from": "features",
            "directory": str(directory),
            "split": stored.split,
            "examples": stored.examples,
            "network": str(stored.network.get("name", "")),
            "dtype": stored.dtype,
            "weights_sha256": str(stored.weights.get("sha256", "")),
        }
        self._stored, self._directory = stored, directory
        paths = [stored.path(directory, shard) for shard in range(stored.num_shards)]
        self._records = ArrayRecordDataSource([str(path) for path in paths])

    def __len__(self) -> int:
        return self._stored.examples

    def batch(self, indices: np.ndarray) -> Batch:
        """Examples int64 [b] -> {video: maps `[b t h w c]`, label: int32 [b], id: text [b]}.

        Raises:
          UserError: A record is damaged; names its shard.
        """
        features, labels, names = zip(*map(self._read, indices.tolist()), strict=True)
        return {"video": np.stack(features), "label": np.stack(labels), "id": np.array(names)}

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray, str]:
        """Feature map, label and id of a clip."""
        stored = self._stored
        shard = stored.path(self._directory, index // stored.shard_size)
        with translated(lambda error: f"{shard}: is damaged ({reason(error)}); {REMEDY}"):
            arrays = dict(safetensors.deserialize(self._records[index]))
            features = np.frombuffer(arrays["features"]["data"], DTYPES[stored.dtype])
            label = np.frombuffer(arrays["label"]["data"], np.int32)
            name = bytes(arrays["id"]["data"]).decode()
            return features.reshape(stored.shape), label.reshape(()), name
