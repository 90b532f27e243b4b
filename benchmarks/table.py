"""Trains the rows of the paper's SyncMNIST table one after another and rewrites docs/results.md.

    nice python -m benchmarks.table --hours=8 --workdirs=DIR [--rows=lite3_mean_lstm,lite5_i3d] \
        [--seeds=0,1] [--config.data.mnist_dir=MNIST]

A row is a variant of configs/sync_mnist.py. Each run has the working directory DIR/ROW-seedN. When
the hours are over, the current run saves its state and stops; the same command resumes it. Every
run, finished or not, has a small file in docs/results/, from which the page and its curves are
generated: `--hours=0` only rewrites them. Config flags are those of train.py.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import table_page
from rstg_jax import cli, files
from rstg_jax.training import logs

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
STARTS = "starts.jsonl"  # in a run's directory: the commit and config flags of each start
GRACE_SECONDS = 600  # to save and leave after the signal


def train(row: str, seed: int, workdir: Path, flags: Sequence[str], seconds: float) -> bool:
    """Trains a row, or goes on with it, for some time.

    Returns:
      Whether it is finished.

    Raises:
      subprocess.CalledProcessError: the training failed.
      KeyboardInterrupt: a signal came; the training has saved its state and stopped.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / STARTS).open("a", encoding="utf-8") as starts:
        starts.write(json.dumps({"commit": commit(), "flags": list(flags)}) + "\n")
    command = [
        sys.executable,
        "train.py",
        f"--config=configs/sync_mnist.py:{row}",
        f"--workdir={workdir}",
        f"--config.train.seed={seed}",
        *flags,
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


def record(row: str, seed: int, workdir: Path) -> dict[str, Any] | None:
    """Summarises a run for docs/results/; None if it has not been evaluated yet."""
    log, starts = workdir / "metrics.jsonl", workdir / STARTS
    rows = logs.read(log) if log.exists() else {}
    tests = {step: row for (split, step), row in rows.items() if split == "test"}
    if not tests:
        return None
    config = files.read_json(workdir / "config.json")
    batch_size, last = config["train"]["batch_size"], tests[max(tests)]
    finished = (workdir / "result.json").exists()
    result = files.read_json(workdir / "result.json") if finished else {}
    begun = files.read_json_lines(starts) if starts.exists() else []
    return {
        "row": row,
        "seed": seed,
        "digits": config["data"]["num_digits"],
        "finished": finished,
        "top1": last["top1"],
        "top5": last["top5"],
        "test_videos": last["examples"],
        "begins_with": Path(config["train"].get("init_from", "")).name,
        "videos_seen": last["step"] * batch_size,
        "videos_planned": config["train"]["total_examples"],
        "hours": last["time"] / 3600,
        "parameters": result.get("parameters"),
        "config_hash": result.get("config_hash"),
        "commits": list(dict.fromkeys(start["commit"] for start in begun)),
        "curve": [[step * batch_size, line["top1"]] for step, line in sorted(tests.items())],
    }


def write_record(row: str, seed: int, workdir: Path) -> None:
    """Writes docs/results/ROW-seedN.json, if there is something to say, and the page."""
    if (summary := record(row, seed, workdir)) is not None:
        RESULTS.mkdir(parents=True, exist_ok=True)
        files.write_json(RESULTS / f"{row}-seed{seed}.json", summary)
    table_page.write(RESULTS, RESULTS.parent / "results.md")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--hours", type=float, required=True, help="time for all of it")
    parser.add_argument("--workdirs", type=Path, required=True, help="directory of all runs")
    parser.add_argument("--rows", default=",".join(table_page.VARIANTS), help="all if absent")
    parser.add_argument("--seeds", default="0", help="numbers; a row's seeds follow one another")
    args, overrides = cli.parse(parser, argv)
    flags = [f"--import={module}" for module in args.modules]
    flags += [f"--config.{key}={value}" for key, value in overrides.items()]
    rows = cli.choices(parser, "--rows", args.rows, table_page.VARIANTS)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    end = time.monotonic() + args.hours * 3600
    for row in rows:
        for seed in seeds:
            workdir = args.workdirs.expanduser().absolute() / f"{row}-seed{seed}"
            left = end - time.monotonic()
            try:
                if not (workdir / "result.json").exists() and left > 0:
                    print(f"{row}, seed {seed}: {left / 3600:.1f} hours left", flush=True)
                    train(row, seed, workdir, flags, left)
            finally:
                write_record(row, seed, workdir)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
