"""SyncMNIST as a TFDS data set, in array_record files and without TensorFlow."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from rstg_jax.data import OnlineSyncMNIST, SyncMNISTConfig, dataset
from rstg_jax.data.sync_mnist import canvas
from rstg_jax.data.sync_mnist.prepared import VERSION, prepared_name

Example = dict[str, Any]

_CITATION = """\
@inproceedings{nicolicioiu2019recurrent,
  title = {Recurrent Space-time Graph Neural Networks},
  author = {Nicolicioiu, Andrei and Duta, Iulia and Leordeanu, Marius},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2019},
}
"""
_CHUNK = 256  # videos generated at a time


@dataclasses.dataclass(eq=False)
class SyncMNISTBuilderConfig(tfds.core.BuilderConfig):
    """Configuration of the builder; `of` gives it its name.

    Attributes:
      data: The data to generate; its sources and its TFDS directory are ignored.
    """

    data: SyncMNISTConfig = dataclasses.field(default_factory=SyncMNISTConfig)

    @classmethod
    def of(cls, data: SyncMNISTConfig) -> "SyncMNISTBuilderConfig":
        """Wraps a configuration and names it as readers expect."""
        description = (
            f"{data.num_digits} moving digits out of {len(data.classes)} classes, "
            f"{data.num_train} training and {data.num_test} test videos, seed {data.seed}."
        )
        return cls(name=prepared_name(data), description=description, data=data)


class SyncMNIST(tfds.core.GeneratorBasedBuilder):
    """Videos of handwritten digits; the label is the pair that moves together.

    Example i of a split depends only on (seed, split, i) and the digit images. For a large set use
    `python -m tfds_builders.sync_mnist.build`, which writes the same files in several processes
    and resumes after an interruption.
    """

    VERSION = tfds.core.Version(VERSION)
    RELEASE_NOTES = {str(VERSION): "The first."}
    BUILDER_CONFIGS = [
        SyncMNISTBuilderConfig.of(SyncMNISTConfig(digits_from="tfds", num_digits=n)) for n in (3, 5)
    ]
    builder_config: SyncMNISTBuilderConfig
    # There are no checksums beside this file; TFDS would import a package that it does not install
    # to look for them.
    code_path = None

    def __init__(self, *, file_format: str | None = None, **kwargs: Any):
        # The default of TFDS, tfrecord, needs TensorFlow.
        super().__init__(file_format=file_format or "array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        data = self.builder_config.data
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=features(data),
            supervised_keys=("video", "label"),
            homepage="https://arxiv.org/abs/1904.05582",
            citation=_CITATION,
            disable_shuffling=True,  # examples are independent of each other
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Example]]]:
        del dl_manager  # `rstg_jax.data.sync_mnist.digits` finds the digits
        data = dataclasses.replace(self.builder_config.data, data_dir=str(self._data_dir_root))
        self.info.metadata.update(metadata(data))
        return {split: self._generate_examples(data, split) for split in dataset.SPLITS}

    def _generate_examples(
        self, data: SyncMNISTConfig, split: str
    ) -> Iterator[tuple[int, Example]]:
        return enumerate(examples(data, split, 0, split_size(data, split)))


def features(data: SyncMNISTConfig) -> tfds.features.FeaturesDict:
    """Returns the features of an example; `encoding="bytes"` is ten times faster than lists."""
    t, n = data.num_frames, data.num_digits

    def tensor(shape: tuple[int, ...], dtype: type) -> tfds.features.Tensor:
        return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")

    return tfds.features.FeaturesDict(
        {
            "video": tensor(data.clip_shape, np.uint8),
            "label": tfds.features.ClassLabel(names=list(data.spec.label_names)),
            # The classes; the first two are the synchronous pair unless the label is "none".
            "digits": tensor((n,), np.int32),
            # (row, column) of each sprite's top left corner on the canvas of 100x100.
            "coordinates": tensor((t, n, 2), np.int32),
            # y0, x0, y1, x1 of each sprite in pixels of the video.
            "boxes": tensor((t, n, 4), np.float32),
        }
    )


def split_size(data: SyncMNISTConfig, split: str) -> int:
    """Returns the number of videos in a split."""
    return data.num_train if split == "train" else data.num_test


@functools.lru_cache(maxsize=2)
def _source(data: SyncMNISTConfig, split: str) -> OnlineSyncMNIST:
    """Cached, because indexing all of MNIST takes a third of a second."""
    return OnlineSyncMNIST(data, split)


def metadata(data: SyncMNISTConfig) -> dict[str, str | int | float]:
    """Returns the description of the data that results record."""
    result: dict[str, str | int | float] = {}
    for split in dataset.SPLITS:
        provenance = dict(_source(data, split).provenance)
        result[f"{split}_digits"] = provenance.pop("digits")
        result[f"{split}_digits_sha256"] = provenance.pop("digits_sha256")
        for key in ("split", "examples", "videos_from"):
            del provenance[key]
        result |= provenance
    return result | {"num_train": data.num_train, "num_test": data.num_test}


def examples(data: SyncMNISTConfig, split: str, first: int, end: int) -> Iterator[Example]:
    """Yields examples first..end-1 of a split, ready to be encoded."""
    source = _source(data, split)
    for start in range(first, end, _CHUNK):
        batch = source.batch(np.arange(start, min(start + _CHUNK, end)))
        boxes = canvas.sprite_boxes(batch["coords"], data.frame_size)
        for i, label in enumerate(batch["label"]):
            yield {
                "video": batch["video"][i],
                "label": int(label),
                "digits": batch["digits"][i],
                "coordinates": batch["coords"][i],
                "boxes": boxes[i],
            }
