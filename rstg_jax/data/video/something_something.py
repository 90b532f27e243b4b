"""Something-Something as `tfds_builders.something_something` has prepared it."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np

from rstg_jax import storage
from rstg_jax.data import array_records
from rstg_jax.data.dataset import check_split
from rstg_jax.data.video.clip_dataset import ClipDataConfig
from rstg_jax.data.video.clip_source import Clip, ClipSource
from rstg_jax.errors import UserError

VERSION = "1.0.0"
OFFICIAL = ("v1", "v2")
DEMO = "v2_demo"


@dataclasses.dataclass(frozen=True)
class SomethingSomethingConfig(ClipDataConfig):
    """Which Something-Something, where it lies and what clips to make of it.

    Attributes:
      version: Name of the prepared configuration: "v1", "v2" or "v2_demo", and what differs from
        the builder's defaults, such as "v2-video" or "v2-short_side128".
      data_dir: Directory of TFDS.
      test_split: What is tested on: "validation", or "test", whose labels may be unknown.
      label_order: Numbers of the labels: their order in the data set's own "file" of labels, or
        their names "sorted", as in some other projects.
    """

    may_differ: ClassVar[tuple[str, ...]] = ("data_dir", *ClipDataConfig.may_differ)

    version: str = "v2"
    data_dir: str = "~/tensorflow_datasets"
    test_split: Literal["validation", "test"] = "validation"
    label_order: Literal["file", "sorted"] = "file"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.version.split("-")[0] not in (*OFFICIAL, DEMO):
            raise UserError(
                f"version={self.version!r} must be v1, v2 or v2_demo, or one of these with "
                "settings, such as v2-video"
            )

    @property
    def num_classes(self) -> int:
        """Number of labels; of the official versions it is known without the data."""
        if self.version.split("-")[0] in OFFICIAL:
            return 174
        builder = open_builder(self)
        with array_records.described(prepared_dir(self)):
            return int(builder.info.features["label"].num_classes)

    def open(self, split: str) -> ClipSource:
        check_split(split)
        return open_something_something(self, split)

    def check_lists(self) -> None:
        open_builder(self)

    def with_split(self, split: str | None) -> tuple[Self, str, str]:
        split = split or self.test_split
        if split == "validation":
            return dataclasses.replace(self, test_split="validation"), "test", split
        if split == "test":
            return dataclasses.replace(self, test_split="test"), "test", split
        return super().with_split(split)

    def with_official_labels(self) -> Self:
        return dataclasses.replace(self, label_order="file")


def prepared_dir(config: SomethingSomethingConfig) -> storage.Path:
    """Where the prepared data of a configuration lie."""
    return storage.path(config.data_dir) / "something_something" / config.version / VERSION


def build_command(config: SomethingSomethingConfig) -> str:
    """The command that prepares a configuration from what lies in DIR."""
    name, *settings = config.version.split("-")
    flags = [
        "--store=video" if setting == "video" else re.sub(r"(\D+)(\d+)", r"--\1=\2", setting)
        for setting in settings
    ]
    command = "python -m tfds_builders.something_something.build --manual_dir=DIR"
    return " ".join([command, f"--config={name}", f"--data_dir={config.data_dir}", *flags])


def open_builder(config: SomethingSomethingConfig) -> Any:
    """TFDS's builder of the prepared data.

    Raises:
      UserError: If the data are not there; names the command that prepares them.
    """
    directory = prepared_dir(config)
    if not (directory / array_records.INFO).is_file():
        source = (
            "draw the demo with `python -m tfds_builders.something_something.make_demo --out=DIR`"
            if config.version.split("-")[0] == DEMO
            else "put the official download in DIR"
        )
        raise UserError(
            f"{directory}: no prepared Something-Something; {source}, then prepare it with "
            f"`{build_command(config)}`; `make smt-demo` runs every step, from drawn clips to "
            "predictions, without the download"
        )
    return array_records.open_builder(array_records.at_hand(directory))


def open_something_something(config: SomethingSomethingConfig, split: str) -> ClipSource:
    """Opens a split ("train" or "test") of a prepared Something-Something.

    Raises:
      UserError: If the data are not there or damaged.
    """
    directory, builder = prepared_dir(config), open_builder(config)
    with array_records.described(directory):
        return _open_split(config, split, directory, builder)


def _open_split(
    config: SomethingSomethingConfig, split: str, directory: storage.Path, builder: Any
) -> ClipSource:
    import tensorflow_datasets as tfds

    name = config.test_split if split == "test" else split
    if name not in builder.info.splits:
        raise UserError(f"{directory}: has no split {name!r}; prepare the data again with it")
    info = builder.info.splits[name]
    if not info.num_examples:
        raise UserError(
            f"{directory}: the split {name!r} is empty; delete it and prepare the data again, from "
            "a whole download"
        )
    array_records.check_shards([str(file) for file in info.filepaths], info.shard_lengths)
    features = builder.info.features

    class Skip(tfds.decode.SkipDecoding):
        """Leaves JPEG images as they are; TFDS's own knows no sequences without TensorFlow."""

        def decode_batch_example_np(self, encoded: np.ndarray) -> np.ndarray:
            return encoded

    skip = {"frames": Skip()} if "frames" in features else None
    in_file = tuple(features["label"].names)
    label_names = tuple(sorted(in_file)) if config.label_order == "sorted" else in_file
    numbers = np.array([label_names.index(label) for label in in_file], np.int32)
    videos = builder.as_data_source(split=name, decoders=skip)
    return ClipSource(
        PreparedClips(videos, directory, numbers),
        config.clip,
        name=f"Something-Something {config.version} {name} split in {directory}",
        label_names=label_names,
        provenance={
            **(builder.info.metadata or {}),
            "videos_from": "tfds",
            "directory": str(directory),
            "split": name,
            "examples": info.num_examples,
        },
        workers=config.workers,
        processes=config.processes,
        broken=config.broken,
        boxes=config.boxes.read(),
        labelled=name != "test" or _has_labels(videos),
    )


def _has_labels(videos: Any) -> bool:
    return len(videos) > 0 and int(videos[0]["label"]) >= 0


class PreparedClips:
    """Encoded videos of a prepared split; satisfies `Clips`.

    Args:
      videos: TFDS's data source, images not decoded.
      directory: Where it lies.
      numbers: Number that is wanted for each of its labels, int32 [labels].
    """

    def __init__(self, videos: Any, directory: storage.Path, numbers: np.ndarray):
        self._videos, self._directory, self._numbers = videos, directory, numbers

    def __len__(self) -> int:
        return len(self._videos)

    def load(self, indices: Sequence[int]) -> list[Clip]:
        examples = array_records.read_examples(self._videos, indices, self._directory)
        with array_records.described(self._directory):
            return [self._clip(i, example) for i, example in zip(indices, examples, strict=True)]

    def _clip(self, index: int, example: dict[str, Any]) -> Clip:
        number, label = _text(example["id"]), int(example["label"])
        encoded = example["video"] if "video" in example else tuple(example["frames"])
        label = int(self._numbers[label]) if label >= 0 else -1
        return Clip(number, f"example {index}", label, encoded)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
