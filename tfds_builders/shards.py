"""Prepares a data set of TFDS shard after shard, in several processes, and resumes.

TFDS's own `download_and_prepare` works in one process and starts anew when interrupted. Here each
shard holds a fixed range of examples and is written under a temporary name first, so that a shard
under its own name is whole; a second run makes those that are missing. The directory gets its own
name when all of them are there. The bytes of a shard depend on its examples alone.

An example that cannot be made is `Skipped`: a list beside the shard keeps which and why.
"""

import dataclasses
import functools
import itertools
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
import tqdm
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from rstg_jax.data.sync_mnist.prepared import check_shards
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
      split: Where it is missing.
      id: Its name.
      file: What it should have been made of.
      reason: The kind of fault, a few words that are counted.
      detail: What exactly was found.
      state: Of the file, in any form that JSON can hold: another state is worth another try.
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
      path: Of the file.
      split: That it is a part of.
      size: Number of examples, those that will be skipped included.
      examples: Makes them; goes to another process.
    """

    path: pathlib.Path
    split: str
    size: int
    examples: Callable[[], Iterable[Example | Skipped]]

    @property
    def list_of_skipped(self) -> pathlib.Path:
        """File that is there if any example was skipped."""
        return self.path.with_name(self.path.name + _SKIPPED)

    def skipped(self) -> list[Skipped]:
        """Examples that a finished shard lacks."""
        if not self.list_of_skipped.exists():
            return []
        lines = self.list_of_skipped.read_text().splitlines()
        return [Skipped(**json.loads(line)) for line in lines]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A data set to prepare.

    Attributes:
      target: Directory that it gets.
      name: Of the data set, in the names of files.
      sizes: Number of examples of each split.
      shard_size: Number of examples in a shard.
      examples: (split, first, end) -> what makes examples first..end-1.
      features: Makes the features; goes to other processes.
      description: What must be the same when an interrupted run is resumed.
      noun: What an example is, in messages.
      sample: Number of examples made to learn how much disk is needed.
      options: Of the array_record writer.
      state_of: What `Skipped.state` would be now.
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
    # One record a group, as TFDS does, is what random access wants; zstd:1 is as small as the
    # default level for raw pixels and twice as fast.
    options: str = "group_size:1,zstd:1"
    state_of: Callable[[Skipped], Any] = lambda skipped: skipped.state

    @property
    def partial(self) -> pathlib.Path:
        """Directory of an unfinished run."""
        return self.target.with_name(f"{self.target.name}.partial")

    def shards(self) -> list[Shard]:
        """All shards, split after split."""
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
    """Whether a data set was prepared before; says so."""
    there = (target / "dataset_info.json").is_file()
    if there:
        print(f"{target} is there already.")
    return there


def builder_of(
    cls: type[tfds.core.DatasetBuilder],
    config: tfds.core.BuilderConfig,
    data_dir: str | pathlib.Path,
) -> tfds.core.DatasetBuilder:
    """A builder of a configuration, which may be equal to a published one.

    TFDS wants the name of a published one and refuses another object of the same name.
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
    """Prepares a data set and returns its directory.

    Args:
      plan: What to make.
      builder: Describes it; its splits and metadata are filled in.
      metadata: What results record about the data.
      processes: Work at the same time.
      check: Looks at what was skipped before the data set gets its name; may raise or tell more
        metadata.

    Raises:
      UserError: If the disk is too small, or an interrupted run of other data is in the way.
    """
    if processes < 1:
        raise UserError(f"--processes={processes} must be at least 1")
    try:
        plan.partial.mkdir(parents=True, exist_ok=True)
        _claim(plan)
        shards = plan.shards()
        for shard in shards:
            if any(plan.state_of(skipped) != skipped.state for skipped in shard.skipped()):
                shard.path.unlink(missing_ok=True)
        missing = [shard for shard in shards if not shard.path.exists()]
        if missing:
            _state_disk_need(plan, missing)
            _write_all(plan, shards, missing, processes)
        more = check([skipped for shard in shards for skipped in shard.skipped()])
        _finish(plan, builder, {**metadata, **more}, shards)
    except OSError as e:
        raise UserError(f"{e.filename or plan.partial}: {e.strerror}; the next run resumes") from e
    print(f"{plan.target} is ready.")
    return plan.target


def _claim(plan: Plan) -> None:
    """Says in a file what is being built, or checks that an interrupted run built the same."""
    note = plan.partial / _NOTE
    description = {**plan.description, "shard_size": plan.shard_size}
    for leftover in plan.partial.glob("*.tmp"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    if note.exists():
        if json.loads(note.read_text()) != description:
            raise UserError(
                f"{plan.partial}: an interrupted run used other data or settings; delete it first"
            )
    else:
        note.write_text(json.dumps(description))


def _state_disk_need(plan: Plan, missing: Sequence[Shard]) -> None:
    """Prints the disk need, measured on a sample, and refuses to start where it does not fit."""
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
    """Writes a shard under a temporary name and then gives it its own."""
    serialize = features().serialize_example
    temporary = shard.path.with_name(f"{shard.path.name}.{os.getpid()}.tmp")
    writer = ArrayRecordWriter(str(temporary), options)
    skipped = []
    try:
        for example in shard.examples():
            if isinstance(example, Skipped):
                skipped.append(example)
                continue
            # Once more through the message: its map of features has no order of its own.
            message = tf_example_pb2.Example.FromString(serialize(example))
            writer.write(message.SerializeToString(deterministic=True))
        writer.close()
    except RuntimeError as e:  # array_record's, such as of a full disk
        temporary.unlink(missing_ok=True)
        raise UserError(f"{shard.path}: cannot be written ({e}); the next run resumes") from e
    shard.list_of_skipped.unlink(missing_ok=True)
    if skipped:
        lines = [json.dumps(dataclasses.asdict(one)) + "\n" for one in skipped]
        shard.list_of_skipped.write_text("".join(lines))
    temporary.replace(shard.path)
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
    """Checks the shards, describes them the way TFDS does and names the directory."""
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
        files = [shard.path for shard in shards if shard.split == split]
        splits.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[lengths[path] for path in files],
                num_bytes=sum(path.stat().st_size for path in files),
                filename_template=template.replace(split=split),
            )
        )
    builder.info.set_splits(tfds.core.splits.SplitDict(splits))
    builder.info.metadata.update(metadata)
    builder.info.write_to_directory(plan.partial)
    for shard in shards:
        shard.list_of_skipped.unlink(missing_ok=True)
    (plan.partial / _NOTE).unlink()
    plan.partial.rename(plan.target)
