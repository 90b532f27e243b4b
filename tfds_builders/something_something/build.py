"""Prepares Something-Something in several processes; resumes after an interruption.

    python -m tfds_builders.something_something.build --config=v2 --manual_dir=DIR --data_dir=DIR
        [--processes=N] [--tolerance=0.001] [--store=frames|video] [--short_side=256] [--quality=95]

See `tfds_builders.shards` for how the data are written. Clips that cannot be used are listed, with
the reason, in `broken_clips.jsonl` in the directory of the data set (in that of the unfinished one
if there are too many). After clips have been repaired, the same command rewrites only their shards
of an unfinished data set. It does not change a finished one, but says if it was made of other
annotations or without clips that can be read now.
"""

import dataclasses
import functools
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from rstg_jax import cli, files
from rstg_jax.data import array_records
from rstg_jax.data.video.something_something import SomethingSomethingConfig, prepared_dir
from rstg_jax.errors import UserError
from tfds_builders import processes as processes_lib
from tfds_builders import shards
from tfds_builders.shards import Metadata, Skipped
from tfds_builders.something_something import annotations, clips, something_something
from tfds_builders.something_something.annotations import Annotations
from tfds_builders.something_something.something_something import SomethingSomethingBuilderConfig

SHARD = 128  # clips: about 150 MB of frames of V2
REPORT = "broken_clips.jsonl"
_SAMPLE = 32  # clips read to estimate the disk space


def build(
    config: SomethingSomethingBuilderConfig,
    manual_dir: str | pathlib.Path,
    data_dir: str | pathlib.Path,
    *,
    processes: int = 1,
    tolerance: float = something_something.TOLERANCE,
    shard_size: int = SHARD,
) -> pathlib.Path:
    """Prepares a configuration and returns the directory of the data set.

    Raises:
      UserError: The download is incomplete, an annotation is wrong, more clips than tolerated are
        broken, the disk is too small, or there are finished data or an interrupted run of others.
    """
    processes_lib.check_number(processes)
    if not 0 <= tolerance <= 1:
        raise UserError(f"--tolerance={tolerance} must lie in 0..1")
    found = annotations.read(config.reads, pathlib.Path(manual_dir).expanduser())
    target = prepared_dir(SomethingSomethingConfig(config.name, str(data_dir)))
    if shards.is_there(target):
        _check_made(target, config, found, tolerance)
        return target
    builder = shards.builder_of(something_something.SomethingSomething, config, data_dir)
    builder.info.features["label"].names = list(found.label_names)
    metadata = something_something.metadata(config, found)

    def examples(split: str, first: int, end: int) -> Any:
        # Only the clips of the shard are sent to the other process.
        alone = dataclasses.replace(found, clips={})
        some = found.clips[split][first:end]
        return functools.partial(something_something.examples, config, alone, split, some)

    plan = shards.Plan(
        target=target,
        name=builder.name,
        sizes={split: len(some) for split, some in found.clips.items()},
        shard_size=shard_size,
        examples=examples,
        features=functools.partial(something_something.features, config, found.label_names),
        description=metadata,
        noun="clips",
        sample=_SAMPLE,
        options="group_size:1,uncompressed",  # JPEG and VP9 cannot be compressed further
        state_of=lambda skipped: clips.state(pathlib.Path(skipped.file)),
    )
    check = functools.partial(_check, plan.partial, found.total, tolerance)
    absent = _absent(found)
    if len(absent) > tolerance * found.total:
        plan.partial.mkdir(parents=True, exist_ok=True)
        check(absent)
    return shards.prepare(plan, builder, metadata, processes=processes, check=check)


def _check_made(
    target: pathlib.Path,
    config: SomethingSomethingBuilderConfig,
    found: Annotations,
    tolerance: float,
) -> None:
    """Raises `UserError` if the same command would now make other data than are in `target`."""
    again = f"delete {target} to make it again"
    made = array_records.open_builder(target).info.metadata or {}
    if made.get("annotations_sha256") != found.sha256:
        raise UserError(
            f"{target} was made of other annotations than those of {found.folder.parent}; {again}, "
            "or give another --data_dir"
        )
    report = target / REPORT
    listed = files.read_json_lines(report) if report.exists() else []
    broken = {(one["split"], one["id"]): Skipped(**one) for one in listed}
    readable = 0
    for split, some in found.clips.items():
        left_out = [clip for clip in some if (split, clip.id) in broken]
        tried = something_something.examples(config, found, split, left_out)
        readable += sum(not isinstance(one, Skipped) for one in tried)
    if readable:
        raise UserError(
            f"{target} was made with {len(broken)} broken clips, {readable} can be read now; "
            f"{again}"
        )
    something_something.check_tolerance(
        list(broken.values()), found.total, tolerance, f" All are listed in {report}"
    )


def _absent(found: Annotations) -> list[Skipped]:
    """Returns the clips that have no label or no file."""
    there = {path.name for path in found.folder.iterdir()}
    result = []
    for split, some in found.clips.items():
        for clip in some:
            file = found.file(clip)
            if clip.label is None:
                detail = ("unlabelled", "its annotation names no class")
            elif file.name not in there:
                detail = ("missing", "no such file or folder")
            else:
                continue
            result.append(Skipped(split, clip.id, str(file), *detail))
    return result


def _check(
    directory: pathlib.Path, total: int, tolerance: float, broken: Sequence[Skipped]
) -> Metadata:
    """Lists broken clips in a file and raises if there are too many."""
    report = directory / REPORT
    report.unlink(missing_ok=True)
    if broken:
        lines = []
        for one in broken:
            fields = dataclasses.asdict(one)
            del fields["state"]
            lines.append(json.dumps(fields) + "\n")
        files.write_text(report, "".join(lines))
        print(f"{something_something.counts(broken)} of {total:,} clips; all listed in {REPORT}.")
    where = (
        f" All are listed in {report}. Repair them and run the same command again, or allow more "
        "with --tolerance"
    )
    something_something.check_tolerance(broken, total, tolerance, where)
    return {"broken_clips": len(broken), "tolerance": tolerance}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = cli.command_parser("tfds_builders.something_something.build", __doc__)
    names = ", ".join(something_something.NAMES)
    parser.add_argument("--config", default="v2", help=names)
    parser.add_argument("--manual_dir", required=True, help="directory of the official download")
    parser.add_argument("--data_dir", default=SomethingSomethingConfig().data_dir, help="for TFDS")
    parser.add_argument("--processes", type=int, default=1, help="that read clips")
    default = something_something.TOLERANCE
    parser.add_argument(
        "--tolerance", type=float, default=default, help="share of clips that may be broken"
    )
    parser.add_argument(
        "--store",
        choices=something_something.STORES,
        default="frames",
        help="JPEG frames (default), or the video files as they are",
    )
    for name, text in (("short_side", "of V2's frames, pixels at most"), ("quality", "of JPEG")):
        default = getattr(something_something, name.upper())
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} ({default})")
    flags = parser.parse_args(argv)
    config = SomethingSomethingBuilderConfig.of(
        flags.config, store=flags.store, short_side=flags.short_side, quality=flags.quality
    )
    with processes_lib.stoppable():
        build(
            config,
            flags.manual_dir,
            flags.data_dir,
            processes=flags.processes,
            tolerance=flags.tolerance,
        )
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
