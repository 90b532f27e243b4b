"""Shards of ArrayRecord that TFDS prepared, read and checked without TensorFlow."""

import pathlib
from collections.abc import Sequence
from typing import Any

from rstg_jax.errors import UserError


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
    try:
        examples: list[dict[str, Any]] = videos.__getitems__(list(indices))
    except (RuntimeError, ValueError, IndexError) as e:  # array_record's
        raise UserError(f"{directory}: cannot be read ({e}); delete it and prepare it again") from e
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
