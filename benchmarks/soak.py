"""Runs jobs for a long time and watches memory, open files, threads and disk.

    python -m benchmarks.soak --minutes=60 [--jobs=train,stream,predict] [--saves=1]
        [--out=FILE.json]
    python -m benchmarks.soak --read=FILE.json,... --plot=FILE.svg

    train    training on SyncMNIST, tested and saved about once a minute (or --saves times)
    stream   one video without end through the block, frame by frame
    predict  `rstg_jax.predict` over a directory of thousands of videos, again and again

A job is sampled for its minutes, split evenly, and then stopped. With --read nothing is run: the
table is made of samples that were written with --out. The first sixth is the time to warm up:
compare the samples after it. Memory is the resident set without mapped files, which the
system may drop; it has grown if the median of the last sixth is above that of the second. Disk is
what the job has written, without its logs, which grow with the updates. The exit status is 1 if
memory has grown by 2% or more, or if there are more open files, threads or bytes on disk at the end
than at any time before the middle.
"""

import contextlib
import functools
import itertools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from rstg_jax import cli, files
from rstg_jax.errors import UserError
from rstg_jax.training import logs
from rstg_jax.viz import charts

ROOT = Path(__file__).parents[1]
SAMPLES = 240  # of each job
GROWTH = 0.02  # of memory, allowed
LOGS = ("metrics.jsonl", "events.")  # how their names begin
STYLES = ("test", "train", "other")  # of curves
CONFIG = "configs/sync_mnist.py:tiny"
BATCH = 8
TRAIN = ["train.py", f"--config={CONFIG}", "--config.optim.schedule=constant"]

STREAM = """
import jax, jax.numpy as jnp
from rstg_jax import RSTG, init_state, presets
block = RSTG(presets.modern(iterations=3, dim=64))
frame = jnp.ones((1, 1, 7, 7, 32))
variables = jax.jit(block.init)(jax.random.key(0), frame)
step = jax.jit(lambda v, x, state: block.apply(v, x, state, method="stream"))
state = init_state(block.config, batch=1)
while True:
    out, state = step(variables, frame, state)
    jax.block_until_ready(out)
"""

PREDICT = """
import sys
from rstg_jax import cli, predict
def again():
    while True:
        predict.main(sys.argv[1:])
cli.run(again)
"""


class Sample(NamedTuple):
    """The resources of a job after some seconds: bytes of memory and disk, open files, threads."""

    seconds: float
    memory: int
    files: int
    threads: int
    disk: int


def train(out: Path, saves: float = 1.0) -> list[str]:
    """Training without end, saved so often a minute; first some updates elsewhere, to know them."""
    trial = out.with_name("trial")
    run_train(trial, 500)
    rate = logs.read(trial / logs.METRICS)["train", 500]["examples_per_second"]
    interval = max(round(60 * rate / BATCH / saves), 1)
    length = [f"{what}_every={interval}" for what in ("eval", "checkpoint", "log")]
    length += ["total_steps=1000000000", f"batch_size={BATCH}"]
    return [*TRAIN, f"--workdir={out}", *(f"--config.train.{setting}" for setting in length)]


def run_train(out: Path, steps: int) -> None:
    """Trains for some steps; tested, saved and logged after the last alone."""
    short = [f"total_steps={steps}", f"batch_size={BATCH}", "eval_every=0", "checkpoint_every=0"]
    flags = [f"--config.train.{setting}" for setting in (*short, f"log_every={steps}")]
    command = [sys.executable, *TRAIN, *flags, f"--workdir={out}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def stream(out: Path) -> list[str]:
    """A video without end."""
    del out
    return ["-c", STREAM]


def predict(out: Path, count: int = 2000) -> list[str]:
    """Prediction of many files with a model that was trained for some steps."""
    run_train(out, 5)
    videos = out / "videos"
    videos.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        np.save(videos / f"{number}.npy", rng.integers(0, 256, (4, 16, 16), np.uint8))
    return ["-c", PREDICT, f"--workdir={out}", str(videos)]


JOBS: dict[str, Callable[[Path], list[str]]] = {
    "train": train,
    "stream": stream,
    "predict": predict,
}


def sample(process: psutil.Process, begin: float, out: Path) -> Sample:
    """Samples a process, which must be running."""
    with process.oneshot():
        memory = process.memory_info()
        return Sample(
            time.monotonic() - begin,
            memory.rss - getattr(memory, "shared", 0),  # of files and between processes
            process.num_fds(),
            process.num_threads(),
            disk(out),
        )


def disk(out: Path) -> int:
    """Bytes of all files of a directory but logs; some may vanish meanwhile."""
    total = 0
    for folder, _, names in os.walk(out):
        for name in names:
            if not name.startswith(LOGS):
                with contextlib.suppress(FileNotFoundError):
                    total += os.stat(os.path.join(folder, name)).st_size
    return total


def watch(name: str, make: Callable[[Path], list[str]], seconds: float) -> list[Sample]:
    """Runs a job for some seconds, its start-up included; `make` prepares a directory for it.

    Raises:
      UserError: it ended by itself.
    """
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as temporary, tempfile.TemporaryFile() as log:
        out = Path(temporary) / "out"
        out.mkdir()
        command = [sys.executable, *make(out)]
        with subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log) as job:
            process, begin = psutil.Process(job.pid), time.monotonic()
            try:
                while time.monotonic() - begin < seconds:
                    try:
                        job.wait(seconds / SAMPLES)
                    except subprocess.TimeoutExpired:
                        samples.append(sample(process, begin, out))
                    else:
                        log.seek(0)
                        text = log.read().decode(errors="replace")[-1000:]
                        raise UserError(f"{name} ended with status {job.returncode}: {text}")
            finally:
                job.send_signal(signal.SIGKILL)
    return samples


def growth(samples: Sequence[Sample]) -> float:
    """Growth of memory from the second to the last sixth, as a fraction."""
    sixth = max(len(samples) // 6, 1)
    before, after = samples[sixth : 2 * sixth], samples[-sixth:]
    start = statistics.median(s.memory for s in before)
    return statistics.median(s.memory for s in after) / start - 1


def problems(samples: Sequence[Sample]) -> list[str]:
    """Names of the resources that have grown and should not."""
    found = []
    if (share := growth(samples)) >= GROWTH:
        found.append(f"memory has grown by {share:.1%}")
    half, sixth = len(samples) // 2, max(len(samples) // 6, 1)
    for what in ("files", "threads", "disk"):
        before = max(getattr(s, what) for s in samples[:half])
        after = min(getattr(s, what) for s in samples[-sixth:])
        if after > before:
            found.append(f"{what}: {after} at the end, {before} at most before the middle")
    return found


def drawing(seen: Mapping[str, Sequence[Sample]]) -> str:
    """Draws the memory of every job; one `<svg>` document."""
    width, height = charts.SIZE
    figure = charts.new_figure(width, height + 30)
    figure.set_facecolor("white")
    figure.subplots_adjust(0.09, 0.14, 0.97, 0.82)
    axes = figure.subplots()
    axes.set_title("Memory, MB", loc="left", fontsize=15, pad=24)
    lines = [
        charts.Line(
            name, style, [s.seconds / 60 for s in samples], [s.memory / 1e6 for s in samples]
        )
        for (name, samples), style in zip(seen.items(), itertools.cycle(STYLES), strict=False)
    ]
    charts.draw_lines(axes, lines, x_label="minutes")
    return charts.to_svg(figure, "memory of long jobs", {}, themed=False) + "\n"


def read(paths: str) -> dict[str, list[Sample]]:
    """The samples of files that were written with --out; names are split by commas."""
    return {
        name: [Sample(**row) for row in rows]
        for path in paths.split(",")
        for name, rows in files.read_json(Path(path)).items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = cli.command_parser("benchmarks.soak", __doc__, whole=True)
    parser.add_argument("--minutes", type=float, default=60, help="for all jobs")
    parser.add_argument("--jobs", default=",".join(JOBS), help="all if absent")
    parser.add_argument("--saves", type=float, default=1, help="of training, in a minute")
    parser.add_argument("--out", type=Path, help="write all samples to this file")
    parser.add_argument("--read", metavar="FILE.json,...", help="samples of earlier runs")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw memory over time")
    args = parser.parse_args(argv)
    names = cli.choices(parser, "--jobs", args.jobs, JOBS)
    jobs = JOBS | {"train": functools.partial(train, saves=args.saves)}
    seen = read(args.read) if args.read else {}
    names, status = list(seen) or names, 0
    print(
        f"{'job':<9}{'minutes':>8}{'memory MB':>11}{'growth':>8}{'files':>7}{'threads':>9}"
        f"{'disk MB':>9}"
    )
    for name in names:
        if name not in seen:
            seen[name] = watch(name, jobs[name], 60 * args.minutes / len(names))
        samples = seen[name]
        last = samples[-1]
        print(
            f"{name:<9}{last.seconds / 60:>8.1f}{last.memory / 1e6:>11.0f}"
            f"{growth(samples):>8.1%}{last.files:>7}{last.threads:>9}"
            f"{last.disk / 1e6:>9.2f}",
            flush=True,
        )
        for problem in problems(samples):
            print(f"  {problem}")
            status = 1
    if args.out:
        files.write_json(args.out, {name: [s._asdict() for s in seen[name]] for name in names})
    if args.plot:
        files.write_text(args.plot, drawing(seen))
    return status


if __name__ == "__main__":
    sys.exit(cli.run(main))
