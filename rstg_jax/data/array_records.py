"""Shards of ArrayRecord that TFDS prepared, read and checked without TensorFlow."""

import contextlib
import pathlib
from collections.abc import Sequence
from typing import Any

from rstg_jax import files
from rstg_jax.errors import UserError, reason, translated

_TFDS = "tensorflow_datasets."  # where its own features are
_CLASS_KEYS = ("pythonClassName", "python_class_name", "type")  # of today and of earlier releases


def described(directory: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    """Reports any error of its body, which opens or reads prepared data, as a `UserError`."""
    return translated(
        lambda error: (
            f"{directory}: cannot be read ({reason(error)}); delete it and prepare it again"
        )
    )


def open_builder(directory: pathlib.Path) -> Any:
    """TFDS's builder of prepared data.

    Raises:
      UserError: Their description is damaged, or names code of others, which TFDS would import.
    """
    import tensorflow_datasets as tfds

    with described(directory):
        content = files.read_json(directory / "features.json")
        _check_types(content, directory)
        builder = tfds.builder_from_directory(directory)
        # The names lie in a file of their own, which TFDS believes whatever their number.
        count = int(content["featuresDict"]["features"]["label"]["classLabel"]["numClasses"])
        names = builder.info.features["label"].names or []
        if len(names) != count:
            raise UserError(
                f"{directory}: label.labels.txt has {len(names)} names, features.json {count} "
                "classes; delete it and prepare it again"
            )
        return builder


def _check_types(content: Any, directory: pathlib.Path) -> None:
    """Raises `UserError` unless every feature is of a class of TFDS."""
    if isinstance(content, dict):
        for name in (content[key] for key in _CLASS_KEYS if key in content):
            if not str(name).startswith(_TFDS):
                raise UserError(f"{directory}/features.json: {name!r} is no feature of TFDS")
        content = list(content.values())
    for value in content if isinstance(content, list) else ():
        _check_types(value, directory)


def read_examples(
    videos: Any, indices: Sequence[int], directory: pathlib.Path
) -> list[dict[str, Any]]:
    """Reads some examples of a TFDS data source.

    Args:
      videos: The data source.
      indices: Which examples.
      directory: Of the data source, for the error.

    Raises:
      UserError: They cannot be read.
    """
    with described(directory):
        examples: list[dict[str, Any]] = videos.__getitems__(list(indices))
        return examples


def check_shards(paths: list[str], lengths: list[int]) -> None:
    """Opens every shard and compares its number of records.

    Raises:
      UserError: A shard is missing or damaged; names the first of them.
    """
    from array_record.python.array_record_module import ArrayRecordReader

    for path, length in zip(paths, lengths, strict=True):
        try:
            reader = ArrayRecordReader(path)
            found = reader.num_records()
            reader.close()
        except (RuntimeError, ValueError, OSError) as e:
            first_line = str(e).splitlines()[0] if str(e) else type(e).__name__
            raise UserError(
                f"{path}: the shard is damaged or missing ({first_line}); delete its directory and "
                "prepare the data again"
            ) from e
        if found != length:
            raise UserError(
                f"{path}: the shard has {found} records, not {length}; delete its directory and "
                "prepare the data again"
            )
