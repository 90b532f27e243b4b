"""Shards of ArrayRecord: written, checked, and read as TFDS prepared them, without TensorFlow."""

import contextlib
import fcntl
import fnmatch
import logging
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rstg_jax import files, storage
from rstg_jax.errors import UserError, first_line, reason, translated

INFO = "dataset_info.json"  # a directory that has it holds prepared data
CACHE = pathlib.Path("~/.cache/rstg_jax/data")  # copies of what lies in buckets
_TFDS = "tensorflow_datasets."  # where its own features are
_CLASS_KEYS = ("pythonClassName", "python_class_name", "type")  # of today and of earlier releases

# One record per group, as in TFDS, suits random access. For raw pixels zstd:1 compresses as well as
# the default level and is twice as fast.
OPTIONS = "group_size:1,zstd:1"
RESUME = "run the same command again to resume"
PREPARE = "delete its directory and prepare the data again"

_log = logging.getLogger(__name__)


def at_hand(directory: storage.Path, description: str = INFO) -> pathlib.Path:
    """The directory of prepared data, or a copy of one in a bucket, which is made once.

    ArrayRecord maps shards into memory, and every batch takes records from anywhere in them.

    Args:
      directory: Of the data.
      description: Name of the files that say which data these are; `*` stands for any letters.

    Raises:
      UserError: It cannot be copied; names the place and the space that it needs.
    """
    if isinstance(directory, pathlib.Path):
        return directory
    copy = CACHE.expanduser() / str(directory).removeprefix(storage.SCHEME)
    try:
        with one_process_at_a_time(copy.parent / f".{copy.name}.lock"), storage.errors(directory):
            _bring(directory, copy, description)
    except OSError as error:
        raise UserError(f"cannot copy {directory} to {copy}: {reason(error)}") from error
    return copy


def _bring(directory: storage.Path, copy: pathlib.Path, description: str) -> None:
    """Copies what is missing; other data of the same name are replaced."""
    found = {f.relative_to(directory).as_posix(): f for f in storage.files_below(directory)}
    found = {name: file for name, file in found.items() if not name.startswith(".")}  # a lock
    for old in copy.glob(description):
        if old.name not in found or old.read_bytes() != found[old.name].read_bytes():
            shutil.rmtree(copy)
            break
    sizes = {file: storage.size(file) for file in found.values()}
    targets = {file: copy / name for name, file in found.items()}
    missing = [f for f, to in targets.items() if not to.exists() or storage.size(to) != sizes[f]]
    needed, free = sum(sizes[file] for file in missing), shutil.disk_usage(copy.parent).free
    if needed > free:
        raise UserError(
            f"{directory} has to be copied to {copy} first: {needed / 1e9:.1f} GB are needed, "
            f"{free / 1e9:.1f} GB are free. Make space, or let {CACHE} be a link to a larger disk"
        )
    if missing:
        _log.info("copying %s to %s: %.1f GB", directory, copy, needed / 1e9)
    # First what the next start compares.
    for file in sorted(missing, key=lambda file: not fnmatch.fnmatch(file.name, description)):
        with files.replacing(targets[file]) as part:
            storage.copy(file, part)


@contextlib.contextmanager
def one_process_at_a_time(lock: pathlib.Path) -> Iterator[None]:
    """Lets the processes of a machine run the body one after the other."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.info("%s: another process is at work; this one waits for it", lock.parent)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def described(directory: storage.Path) -> contextlib.AbstractContextManager[None]:
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
    videos: Any, indices: Sequence[int], directory: storage.Path
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


@contextlib.contextmanager
def shard_writer(path: storage.Path, options: str = OPTIONS) -> Iterator[Callable[[bytes], None]]:
    """Yields a function that adds a record; the shard has its name when the body has ended.

    Raises:
      UserError: It cannot be written.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    with files.replacing(path) as part:
        try:
            writer = ArrayRecordWriter(str(part), options)
            yield writer.write
            writer.close()
        except RuntimeError as e:  # array_record's, such as of a full disk
            raise UserError(f"{path}: cannot be written ({e}); {RESUME}") from e


def check_shards(paths: list[str], lengths: list[int], remedy: str = PREPARE) -> None:
    """Opens every shard and compares its number of records.

    Args:
      paths: Of the shards.
      lengths: Number of records of each.
      remedy: What to do about a damaged one, for the error.

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
            raise UserError(
                f"{path}: the shard is damaged or missing ({first_line(e)}); {remedy}"
            ) from e
        if found != length:
            raise UserError(f"{path}: the shard has {found} records, not {length}; {remedy}")
