"""Prepares a TFDS data set shard by shard, in several processes, and resumes after interruptions.

TFDS's own `download_and_prepare` uses one process and starts from the beginning after an
interruption. Here each shard contains a fixed range of examples and is written under a temporary
name, so a shard under its final name is complete; the next run writes the missing ones. The
directory gets its final name when all shards exist, and loses what only an unfinished one needs
after that. The bytes of a shard depend only on its examples.

An example that cannot be made is `Skipped` and listed, with the reason, in a file beside the shard.
"""

import dataclasses
import functools
import itertools
import json
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
import tqdm
from tensorflow_datasets.proto import tf_example_pb2

from rstg_jax import files
from rstg_jax.data.array_records import (
    OPTIONS,
    RESUME,
    check_shards,
    one_process_at_a_time,
    shard_writer,
)
from rstg_jax.errors import UserError
from tfds_builders import processes as processes_lib

Example = dict[str, Any]
Metadata = dict[str, str | int | float]

_NOTE = "building.json"
_SKIPPED = ".skipped.jsonl"
_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"))


@dataclasses.dataclass(frozen=True)
class Skipped:
    """An example that cannot be made.

    Attributes:
      split: Its split.
      id: Its name.
      file: The file it would have been made from.
      reason: The kind of fault in a few words; equal ones are counted.
      detail: The details of the fault.
      state: State of the file as JSON; if it has changed, the example is tried again.
    """

    split: str
    id: str
    file: str
    reason: str
    detail: str
    state: Any = None


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of a split and the examples in it.

    Attributes:
      path: Path of the file.
      split: Its split.
      size: Number of examples, including those that will be skipped.
      examples: Makes the examples; is sent to another process.
    """

    path: pathlib.Path
    split: str
    size: int
    examples: Callable[[], Iterable[Example | Skipped]]

    @property
    def list_of_skipped(self) -> pathlib.Path:
        """Path of the list of skipped examples; it exists if there are any."""
        return self.path.with_name(self.path.name + _SKIPPED)

    def skipped(self) -> list[Skipped]:
        """Returns the skipped examples of a finished shard."""
        if not self.list_of_skipped.exists():
            return []
        return [Skipped(**one) for one in files.read_json_lines(self.list_of_skipped)]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A data set to prepare.

    Attributes:
      target: Directory of the prepared data set.
      name: Name of the data set, used in file names.
      sizes: Number of examples of each split.
      shard_size: Number of examples in a shard.
      examples: (split, first, end) -> a function that makes examples first..end-1.
      features: Makes the features; is sent to other processes.
      description: Properties that must not change when an interrupted run is resumed.
      noun: Word for the examples in messages.
      sample: Number of examples made to estimate the disk space.
      options: Options of the array_record writer.
      state_of: Returns the current value of `Skipped.state`.
    """

    target: pathlib.Path
    name: str
    sizes: Mapping[str, int]
    shard_size: int
    examples: Callable[[str, int, int], Callable[[], Iterable[Example | Skipped]]]
    features: Callable[[], tfds.features.FeaturesDict]
    description: Metadata
    noun: str = "videos"
    sample: int = 128
    options: str = OPTIONS
    state_of: Callable[[Skipped], Any] = lambda skipped: skipped.state

    @property
    def partial(self) -> pathlib.Path:
        """Directory while the preparation is unfinished."""
        return self.target.with_name(f"{self.target.name}.partial")

    def shards(self) -> list[Shard]:
        """Returns all shards, one split after the other."""
        result = []
        for split, total in self.sizes.items():
            count = -(-total // self.shard_size)
            for k in range(count):
                first, end = k * self.shard_size, min((k + 1) * self.shard_size, total)
                name = f"{self.name}-{split}.array_record-{k:05d}-of-{count:05d}"
                examples = self.examples(split, first, end)
                result.append(Shard(self.partial / name, split, end - first, examples))
        return result


def is_there(target: pathlib.Path) -> bool:
    """Returns whether a data set is already prepared, and prints a line if it is.

    Raises:
      UserError: Something else has its place.
    """
    there = (target / "dataset_info.json").is_file()
    if there:
        print(f"{target} already exists.")
    elif target.is_dir() and any(target.iterdir()):
        raise UserError(f"{target} is in use but holds no prepared data: move or delete it first")
    return there


def builder_of(
    cls: type[tfds.core.DatasetBuilder],
    config: tfds.core.BuilderConfig,
    data_dir: str | pathlib.Path,
) -> tfds.core.DatasetBuilder:
    """Returns the builder of a configuration, which may be equal to a published one.

    For a published one TFDS requires its name and rejects another object of the same name.
    """
    published = config.name in cls.builder_configs
    return cls(config=config.name if published else config, data_dir=data_dir)


def prepare(
    plan: Plan,
    builder: tfds.core.DatasetBuilder,
    metadata: Metadata,
    *,
    processes: int = 1,
    check: Callable[[list[Skipped]], Metadata] = lambda skipped: {},
) -> pathlib.Path:
    """Prepares a data set and returns its directory; a second process on the machine waits.

    Args:
      plan: The data set to prepare.
      builder: Its builder; splits and metadata are filled in.
      metadata: Recorded in results.
      processes: Number of parallel processes.
      check: Called with the skipped examples before the data set gets its final name; may raise, or
        return more metadata.

    Raises:
      UserError: The disk is too small, or there is an interrupted run of other data.
    """
    try:
        plan.target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot make {plan.partial}: {e.strerror}; check --data_dir") from e
    lock = plan.target.with_name(f".{plan.target.name}.lock")
    try:
        with one_process_at_a_time(lock):
            if is_there(plan.target):  # another start has made it meanwhile
                return plan.target
            _make(plan, builder, metadata, processes, check)
    except OSError as e:
        raise UserError(f"{e.filename or plan.partial}: {e.strerror}; {RESUME}") from e
    print(f"{plan.target} is ready.")
    return plan.target


def _make(
    plan: Plan,
    builder: tfds.core.DatasetBuilder,
    metadata: Metadata,
    processes: int,
    check: Callable[[list[Skipped]], Metadata],
) -> None:
    """Makes what is missing of a data set; the arguments are those of `prepare`."""
    plan.partial.mkdir(exist_ok=True)
    _claim(plan)
    shards = plan.shards()
    for shard in shards:
        if any(plan.state_of(skipped) != skipped.state for skipped in shard.skipped()):
            shard.path.unlink(missing_ok=True)
    missing = [shard for shard in shards if not shard.path.exists()]
    if missing:
        _check_disk_space(plan, missing)
        _write_all(plan, shards, missing, processes)
    more = check([skipped for shard in shards for skipped in shard.skipped()])
    _finish(plan, builder, {**metadata, **more}, shards)


def _claim(plan: Plan) -> None:
    """Records in a file what is being built, or checks that an interrupted run built the same."""
    note = plan.partial / _NOTE
    description = {**plan.description, "shard_size": plan.shard_size}
    for leftover in (*plan.partial.glob("*.tmp"), *plan.partial.glob(".part*")):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    try:
        same = files.read_json(note) == description
    except UserError:  # without a note nobody knows what shards hold
        same = not any(plan.partial.glob("*.array_record*"))
    if not same:
        raise UserError(
            f"{plan.partial}: an interrupted run used other data or settings; delete it first"
        )
    files.write_json(note, description)


def _check_disk_space(plan: Plan, missing: Sequence[Shard]) -> None:
    """Prints the disk space needed, measured on a sample; raises if it is not available."""
    total = sum(shard.size for shard in missing)
    with tempfile.TemporaryDirectory(".tmp", dir=plan.partial) as scratch:
        examples = functools.partial(_first, missing[0].examples, plan.sample)
        size = min(plan.sample, missing[0].size)
        sample = Shard(pathlib.Path(scratch) / "sample", missing[0].split, size, examples)
        write_shard(sample, plan.features, plan.options)
        skipped = sample.skipped()
        if len(skipped) == size:
            raise UserError(
                f"none of the first {size} {plan.noun} can be read; {skipped[0].file}: "
                f"{skipped[0].detail}"
            )
        need = sample.path.stat().st_size * total // (size - len(skipped))
    free = shutil.disk_usage(plan.partial).free
    print(f"{total:,} {plan.noun} to make: about {_bytes(need)}, {_bytes(free)} are free.")
    if need * 1.05 > free:
        raise UserError(f"{plan.partial}: {_bytes(need)} do not fit; give another --data_dir")


def _bytes(size: float) -> str:
    unit, name = next((u for u in _UNITS if size >= u[0]), _UNITS[-1])
    return f"{size / unit:.2f} {name}"


def _first(examples: Callable[[], Iterable[Example | Skipped]], count: int) -> Iterator[Any]:
    return itertools.islice(examples(), count)


def write_shard(
    shard: Shard, features: Callable[[], tfds.features.FeaturesDict], options: str
) -> Shard:
    """Writes a shard under a temporary name and then renames it."""
    serialize = features().serialize_example
    skipped = []
    with shard_writer(shard.path, options) as write:
        for example in shard.examples():
            if isinstance(example, Skipped):
                skipped.append(example)
                continue
            # Serialise again, because the feature map of the message has no fixed order.
            message = tf_example_pb2.Example.FromString(serialize(example))
            write(message.SerializeToString(deterministic=True))
        shard.list_of_skipped.unlink(missing_ok=True)
        if skipped:
            lines = [json.dumps(dataclasses.asdict(one)) + "\n" for one in skipped]
            files.write_text(shard.list_of_skipped, "".join(lines))
    return shard


def _write_all(plan: Plan, shards: list[Shard], missing: list[Shard], processes: int) -> None:
    total = sum(shard.size for shard in shards)
    done = total - sum(shard.size for shard in missing)
    write = functools.partial(write_shard, features=plan.features, options=plan.options)
    with tqdm.tqdm(total=total, initial=done, unit=f" {plan.noun}", unit_scale=True) as bar:
        for shard in processes_lib.in_processes(write, missing, processes):
            bar.update(shard.size)


def _finish(
    plan: Plan, builder: tfds.core.DatasetBuilder, metadata: Metadata, shards: list[Shard]
) -> None:
    """Checks the shards, writes TFDS's description of them and renames the directory.

    Until it has its final name the directory is that of an unfinished run, which can be resumed.
    """
    lengths = {shard.path: shard.size - len(shard.skipped()) for shard in shards}
    check_shards([str(path) for path in lengths], list(lengths.values()))
    template = tfds.core.ShardedFileTemplate(
        data_dir=plan.target,
        dataset_name=plan.name,
        filetype_suffix="array_record",
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    )
    splits = []
    for split in plan.sizes:
        paths = [shard.path for shard in shards if shard.split == split]
        splits.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[lengths[path] for path in paths],
                num_bytes=sum(path.stat().st_size for path in paths),
                filename_template=template.replace(split=split),
            )
        )
    builder.info.set_splits(tfds.core.splits.SplitDict(splits))
    builder.info.metadata.update(metadata)
    builder.info.write_to_directory(plan.partial)
    plan.partial.rename(plan.target)
    for file in (_NOTE, *(shard.list_of_skipped.name for shard in shards)):
        (plan.target / file).unlink(missing_ok=True)
