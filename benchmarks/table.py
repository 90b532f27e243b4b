"""Trains the rows of the paper's SyncMNIST table one after another and rewrites docs/results.md.

    nice python -m benchmarks.table --hours=8 --workdirs=DIR [--rows=lite3_mean_lstm,lite5_i3d]
    [--seeds=0,1] [--longer=VIDEOS] [--given=lite3_positional-first-seed0=FILE.safetensors]
    [--config.data.mnist_dir=MNIST]

A row is a variant of configs/sync_mnist.py. Its training has several phases, see `phases`; those
that rows share are trained once. Each has a working directory of its own in DIR. When the hours are
over, the current one saves its state and stops; the same command resumes it. Every row whose last
phase has been evaluated has a small file in docs/results/, from which the page and its curves are
generated: `--hours=0` only rewrites them. Config flags are those of train.py.

`--longer` trains each row once more, from its own weights, for so many videos; its record is then
that of this phase.

`--given` names weights that stand for a phase whose directory is not there: it and the phases
before it are not trained. Rows can begin with the stem of other rows so,
`--given=lite_backbone=rstg_jax/weights/sync_mnist/lite5.safetensors`.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flax import traverse_util

from benchmarks import table_page
from benchmarks.table_records import STARTS, Phase, longer, record
from rstg_jax import cli, files
from rstg_jax.errors import UserError
from rstg_jax.training import patterns, weights_file

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
GRACE_SECONDS = 600  # to save and leave after the signal

# What the backbone's phase teaches, and all the rest.
STEM_PHASE = "lite_backbone"
STEM = "params/backbone,params/object_map"
REST = "^(?!params/(?:backbone|object_map)/)"
FIRST = {  # rate and videos of the first phase with so many digits
    "lite3": (0.02, 24_000),
    "lite5": (0.004, 64_000),
}
OBJECTS_FIRST = (0.02, 64_000)  # likewise, of the row on objects, with any number of digits
# Times as many videos for rows that learn slower, where a step costs a third (time_only) or half as
# much as one of the rows with space stages.
LONGER_FIRST = {"time_only": 3, "i3d": 2, "nl_i3d": 2}


def phases(row: str, seed: int) -> list[Phase]:
    """The phases of a row's training, the last one last.

    The backbone on single frames; behind it, while it stays as it is, three digits, then five if
    there are as many; at last everything together. The row on objects begins with five if there are
    as many.
    """
    digits, name = row.split("_", maxsplit=1)
    run = (f"--config.train.seed={seed}",)
    lessons = FIRST if name != "objects" else {digits: OBJECTS_FIRST}

    def first(lite: str) -> Phase:
        rate, videos = lessons[lite][0], lessons[lite][1] * LONGER_FIRST.get(name, 1)
        flags = (
            f"--config.optim.frozen={STEM}",
            f"--config.optim.learning_rate={rate}",
            "--config.optim.end_factor=0.1",
            f"--config.train.total_examples={videos}",
            "--config.data.num_test=1000",  # the full test is for the last phase
        )
        begin = (f"--config.train.init_fresh={REST}",) if lite == min(lessons) else ()
        variant = f"{lite}_{name}"
        return Phase(f"{variant}-first-seed{seed}", variant, (*run, *begin, *flags))

    return [
        Phase(STEM_PHASE, STEM_PHASE),
        *(first(lite) for lite in lessons if lite <= digits),
        Phase(f"{row}-seed{seed}", row, run),
    ]


def train(
    phase: Phase, before: Path | None, workdir: Path, flags: Sequence[str], seconds: float
) -> bool:
    """Trains a phase, or goes on with it, for some time.

    Args:
      phase: what to train.
      before: working directory of the phase before, or a file of weights that stands for it.
      workdir: of this one.
      flags: of the command line.
      seconds: how long at most.

    Returns:
      Whether it is finished.

    Raises:
      subprocess.CalledProcessError: the training failed.
      KeyboardInterrupt: a signal came; the training has saved its state and stopped.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    options = [*phase.flags, *([f"--config.train.init_from={before}"] if before else []), *flags]
    with (workdir / STARTS).open("a", encoding="utf-8") as starts:
        starts.write(json.dumps({"commit": commit(), "flags": options}) + "\n")
    command = [
        sys.executable,
        "train.py",
        f"--config={phase.config}:{phase.variant}",
        f"--workdir={workdir}",
        *options,
    ]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            process.wait(seconds)
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as reason:
            process.send_signal(signal.SIGTERM)
            process.wait(GRACE_SECONDS)
            if isinstance(reason, KeyboardInterrupt):
                raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return (workdir / "result.json").exists()


def stem_of(file: Path, workdirs: Path) -> Path:
    """Writes the stem of a row's weights to a file of its own, to stand for `lite_backbone`."""
    weights = weights_file.read(file)
    arrays = weights_file.flat(weights)
    chosen = {path: arrays[path] for path in patterns.matching(STEM.split(","), arrays)}
    stem = workdirs / f"stem_of_{file.name}"
    workdirs.mkdir(parents=True, exist_ok=True)
    variables = traverse_util.unflatten_dict(chosen, sep="/")
    weights_file.write(stem, weights._replace(variables=variables))
    return stem


def commit() -> str:
    """The commit of this checkout, with a plus if files differ from it; "unknown" outside git."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
        return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write_record(row: str, seed: int, workdirs: Path) -> None:
    """Writes docs/results/ROW-seedN.json, if there is something to say, and the page."""
    if (summary := record(row, seed, workdirs, phases(row, seed), RESULTS)) is not None:
        RESULTS.mkdir(parents=True, exist_ok=True)
        files.write_json(RESULTS / f"{row}-seed{seed}.json", summary)
    table_page.write(RESULTS, RESULTS.parent / "results.md")


def train_row(
    row_phases: Sequence[Phase],
    workdirs: Path,
    flags: Sequence[str],
    end: float,
    given: Mapping[str, Path],
) -> None:
    """Trains those phases of a row that are not finished, until a time of the monotonic clock."""
    stands = [i for i, phase in enumerate(row_phases) if phase.directory in given]
    first = stands[-1] + 1 if stands else 0
    before = given[row_phases[first - 1].directory] if stands else None
    for phase in row_phases[first:]:
        workdir, left = workdirs / phase.directory, end - time.monotonic()
        if not (workdir / "result.json").exists():
            if left <= 0:
                return
            print(f"{phase.directory}: {left / 3600:.1f} hours left", flush=True)
            if not train(phase, before, workdir, flags, left):
                return
        before = workdir


def train_all(
    rows: Sequence[str],
    args: argparse.Namespace,
    flags: Sequence[str],
    phases: Callable[[str, int], list[Phase]],
    write: Callable[[str, int, Path], None],
) -> None:
    """Trains rows one after another until the hours are over, and records every one.

    Raises `UserError` for weights that are given for a phase that no row has.

    Args:
      rows: to train; the seeds of a row follow one another.
      args: has `hours`, `workdirs`, `seeds`, `given` and `longer`, see `parse`.
      flags: of train.py.
      phases: of a row and a seed.
      write: records a row: its name, the seed, the directory of all runs.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    end = time.monotonic() + args.hours * 3600
    workdirs = args.workdirs.expanduser().absolute()
    names = {p.directory for row in rows for s in seeds(args) for p in phases(row, s)}
    if unknown := [name for name, _ in args.given if name not in names]:
        raise UserError(f"--given={unknown[0]}=...: no such phase; these are {sorted(names)}")
    given = {
        name: stem_of(file, workdirs) if name == STEM_PHASE else file for name, file in args.given
    }
    for row in rows:
        for seed in seeds(args):
            try:
                row_phases = phases(row, seed)
                more = [longer(row_phases[-1], args.longer)] if args.longer else []
                train_row([*row_phases, *more], workdirs, flags, end, given)
            finally:
                write(row, seed, workdirs)


def seeds(args: argparse.Namespace) -> list[int]:
    """The numbers of `--seeds`."""
    return list(map(int, args.seeds.split(",")))


def phase_and_file(text: str) -> tuple[str, Path]:
    """PHASE=FILE -> the phase's directory and the file of its weights."""
    name, _, file = text.partition("=")
    path = Path(file).expanduser().absolute()
    if not name or path.suffix != weights_file.SUFFIX or not path.exists():
        raise argparse.ArgumentTypeError(f"{text}: not PHASE=FILE with a .safetensors file")
    return name, path


def parse(
    argv: Sequence[str] | None, name: str, doc: str, variants: Sequence[str]
) -> tuple[argparse.Namespace, list[str], list[str]]:
    """Arguments of a runner, its rows, and the flags of train.py."""
    parser = cli.command_parser(f"benchmarks.{name}", doc, whole=True)
    parser.add_argument("--hours", type=float, required=True, help="time for all of it")
    parser.add_argument("--workdirs", type=Path, required=True, help="directory of all runs")
    parser.add_argument("--rows", default=",".join(variants), help="all if absent")
    parser.add_argument("--longer", type=int, default=0, help="videos of one more phase")
    parser.add_argument("--seeds", default="0", help="numbers; a row's seeds follow one another")
    parser.add_argument(
        "--given",
        type=phase_and_file,
        action="append",
        default=[],
        metavar="PHASE=FILE",
        help="weights in place of a phase and those before it",
    )
    args, overrides = cli.parse(parser, argv)
    flags = [f"--import={module}" for module in args.modules]
    flags += [f"--config.{key}={value}" for key, value in overrides.items()]
    return args, cli.choices(parser, "--rows", args.rows, variants), flags


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    args, rows, flags = parse(argv, "table", __doc__ or "", table_page.VARIANTS)
    train_all(rows, args, flags, phases, write_record)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
