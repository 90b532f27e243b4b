"""Prepares SyncMNIST in several processes; an interrupted run is resumed.

    python -m tfds_builders.sync_mnist.build --config=digits5 --data_dir=DIR [--mnist_dir=DIR]
        [--processes=N] [--num_train=N] [--num_test=N] [--seed=N] ...

TFDS's own `download_and_prepare` makes the same data set in one process and starts anew when
interrupted. Here each shard holds a fixed range of examples and is written under a temporary name
first, so that a shard under its own name is whole; a second run makes those that are missing. The
directory gets its own name when all of them are there.
"""

import argparse
import dataclasses
import functools
import json
import multiprocessing
import os
import pathlib
import re
import shutil
import signal
import sys
import tempfile

import absl.logging
import tensorflow_datasets as tfds
import tqdm
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from rstg_jax import cli
from rstg_jax.data import SyncMNISTConfig
from rstg_jax.data.digits import SOURCES
from rstg_jax.data.prepared import check_shards, prepared_dir
from rstg_jax.errors import UserError
from rstg_jax.sync_mnist import SPLITS
from tfds_builders.sync_mnist import sync_mnist

SHARD = 4096  # examples in a shard: about 30 MB
_SAMPLE = 128  # examples written to learn how much disk is needed


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file and the examples first..end-1 of `split` that it holds."""

    path: pathlib.Path
    split: str
    first: int
    end: int

    def __len__(self) -> int:
        return self.end - self.first


def build(data: SyncMNISTConfig, *, processes: int = 1, shard_size: int = SHARD) -> pathlib.Path:
    """Prepares `data` in `data.data_dir` and returns the directory of the data set.

    The bytes of a shard depend on `data` and `shard_size` alone.

    Raises:
      UserError: If digits are missing, the disk is too small, or an interrupted run of other data
        is in the way.
    """
    target = prepared_dir(data)
    if (target / "dataset_info.json").is_file():
        print(f"{target} is there already.")
        return target
    if processes < 1:
        raise UserError(f"--processes={processes} must be at least 1")
    partial = target.with_name(f"{target.name}.partial")
    metadata = sync_mnist.metadata(data)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        _claim(partial, {**metadata, "shard_size": shard_size})
        shards = _shards(partial, data, shard_size)
        missing = [shard for shard in shards if not shard.path.exists()]
        _state_disk_need(data, partial, sum(map(len, missing)))
        _write_all(data, shards, missing, processes)
        _finish(data, metadata, shards, partial, target)
    except OSError as e:
        raise UserError(f"{e.filename or partial}: {e.strerror}; the next run resumes") from e
    print(f"{target} is ready.")
    return target


def _claim(partial: pathlib.Path, description: dict[str, str | int | float]) -> None:
    """Says in a file what is being built, or checks that an interrupted run built the same."""
    note = partial / "building.json"
    for leftover in partial.glob("*.tmp"):
        leftover.unlink()
    if note.exists():
        if json.loads(note.read_text()) != description:
            raise UserError(
                f"{partial}: an interrupted run used other digits or settings; delete it first"
            )
    else:
        note.write_text(json.dumps(description))


def _shards(directory: pathlib.Path, data: SyncMNISTConfig, size: int) -> list[Shard]:
    result = []
    for split in SPLITS:
        total = sync_mnist.split_size(data, split)
        count = -(-total // size)
        for k in range(count):
            path = directory / f"sync_mnist-{split}.array_record-{k:05d}-of-{count:05d}"
            result.append(Shard(path, split, k * size, min((k + 1) * size, total)))
    return result


def _state_disk_need(data: SyncMNISTConfig, directory: pathlib.Path, videos: int) -> None:
    """Prints the disk need, measured on a sample, and refuses to start where it does not fit."""
    if not videos:
        return
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        sample = Shard(pathlib.Path(scratch) / "sample", "test", 0, _SAMPLE)
        write_shard(sample, data)
        need = sample.path.stat().st_size * videos // _SAMPLE
    free = shutil.disk_usage(directory).free
    print(f"{videos:,} videos to make: about {need / 1e9:.2f} GB, {free / 1e9:.2f} GB are free.")
    if need * 1.05 > free:
        raise UserError(f"{directory}: {need / 1e9:.2f} GB do not fit; give another --data_dir")


def write_shard(shard: Shard, data: SyncMNISTConfig) -> Shard:
    """Writes a shard under a temporary name and then gives it its own."""
    serialize = sync_mnist.features(data).serialize_example
    temporary = shard.path.with_name(f"{shard.path.name}.{os.getpid()}.tmp")
    # One record a group, as TFDS does, is what random access wants; zstd:1 is as small as the
    # default level here and twice as fast.
    writer = ArrayRecordWriter(str(temporary), "group_size:1,zstd:1")
    try:
        for example in sync_mnist.examples(data, shard.split, shard.first, shard.end):
            # Once more through the message: its map of features has no order of its own.
            message = tf_example_pb2.Example.FromString(serialize(example))
            writer.write(message.SerializeToString(deterministic=True))
        writer.close()
    except RuntimeError as e:  # array_record's, such as of a full disk
        temporary.unlink(missing_ok=True)
        raise UserError(f"{shard.path}: cannot be written ({e}); the next run resumes") from e
    temporary.replace(shard.path)
    return shard


def _write_all(
    data: SyncMNISTConfig, shards: list[Shard], missing: list[Shard], processes: int
) -> None:
    total = sum(map(len, shards))
    done = total - sum(map(len, missing))
    write = functools.partial(write_shard, data=data)
    with tqdm.tqdm(total=total, initial=done, unit=" videos", unit_scale=True) as bar:
        if processes == 1:
            for shard in map(write, missing):
                bar.update(len(shard))
        else:
            # "spawn": TFDS and array_record have threads, which do not survive a fork.
            spawn = multiprocessing.get_context("spawn")
            with spawn.Pool(processes, _leave_interrupts_to_parent) as pool:
                for shard in pool.imap_unordered(write, missing):
                    bar.update(len(shard))


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _finish(
    data: SyncMNISTConfig,
    metadata: dict[str, str | int | float],
    shards: list[Shard],
    partial: pathlib.Path,
    target: pathlib.Path,
) -> None:
    """Checks the shards, describes them the way TFDS does and names the directory."""
    check_shards([str(shard.path) for shard in shards], [len(shard) for shard in shards])
    builder = sync_mnist.SyncMNIST(
        config=sync_mnist.SyncMNISTBuilderConfig.of(data), data_dir=data.data_dir
    )
    template = tfds.core.ShardedFileTemplate(
        data_dir=target,
        dataset_name=builder.name,
        filetype_suffix="array_record",
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    )
    splits = []
    for split in SPLITS:
        files = [shard for shard in shards if shard.split == split]
        splits.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[len(shard) for shard in files],
                num_bytes=sum(shard.path.stat().st_size for shard in files),
                filename_template=template.replace(split=split),
            )
        )
    builder.info.set_splits(tfds.core.splits.SplitDict(splits))
    builder.info.metadata.update(metadata)
    builder.info.write_to_directory(partial)
    (partial / "building.json").unlink()
    partial.rename(target)


def _parse(args: list[str] | None) -> tuple[SyncMNISTConfig, int]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    default = SyncMNISTConfig(digits_from="tfds")
    parser.add_argument("--config", default="digits5", help="digits3, digits5 (default), ...")
    parser.add_argument("--data_dir", default=default.data_dir, help="of TFDS")
    parser.add_argument("--mnist_dir", default="", help="with MNIST's four IDX files")
    parser.add_argument("--digits_from", choices=SOURCES, default=default.digits_from)
    parser.add_argument("--processes", type=int, default=1)
    for name in ("num_train", "num_test", "num_frames", "frame_size", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(default, name))
    parser.add_argument("--none_probability", type=float, default=default.none_probability)
    parser.add_argument("--classes", default="0,1,2,3,4,5,6,7,8,9", help="such as 1,4,7")
    flags = vars(parser.parse_args(args))
    processes = flags.pop("processes")
    try:
        classes = tuple(int(c) for c in flags.pop("classes").split(","))
    except ValueError as e:
        raise UserError(f"--classes must be digits with commas between them ({e})") from e
    name = flags.pop("config")
    number = re.fullmatch(r"digits(\d+)", name)
    if number is None:
        raise UserError(f"--config={name} must be digits3, digits5 or another number of digits")
    return SyncMNISTConfig(num_digits=int(number[1]), classes=classes, **flags), processes


def _command(args: list[str] | None) -> None:
    # TFDS warns of every configuration that is not one of the two published ones.
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        data, processes = _parse(args)
        build(data, processes=processes)
    except KeyboardInterrupt:
        print("\nStopped; the same command goes on from here.", file=sys.stderr)
        sys.exit(130)


def main(args: list[str] | None = None) -> None:
    """The command."""
    cli.run_or_exit(lambda: _command(args))


if __name__ == "__main__":
    main()
