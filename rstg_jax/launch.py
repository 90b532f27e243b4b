"""Tries a job of several processes on the CPUs of one machine.

    python -m rstg_jax.launch --processes=4 train.py --config=configs/sync_mnist.py:demo

Starts a Python script, or with ``-m`` a module, several times, with the flags --coordinator,
--num_processes and --process_id that join the processes. Lines of their output begin with the
number of the process. SIGINT and SIGTERM go to all of them. When one fails, the others end by
themselves, or are killed after a minute; a line says which one it was. The same command resumes.
Clusters start processes themselves, and one process uses all GPUs of a machine: neither needs this.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

from rstg_jax import cli, processes

STOP_SECONDS = 60  # that the others have to end, before they are killed


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = cli.command_parser("rstg_jax.launch", __doc__, whole=True)
    parser.add_argument("--processes", type=int, required=True, metavar="N", help="how many")
    parser.add_argument(
        "-m", dest="module", nargs=argparse.REMAINDER, metavar="MODULE [FLAGS]", help="a module"
    )
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="SCRIPT [FLAGS]", help="such as train.py ..."
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = make_parser()
    args = parser.parse_args(argv)
    command = ["-m", *args.module] if args.module else args.command
    if args.processes < 1 or not command:
        parser.error("give --processes=N, at least 1, and a script with its flags")
    jobs = start(args.processes, command)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: send(jobs, number))
    copying = [
        threading.Thread(target=copy, args=(stream, f"[{i}] ", out), daemon=True)
        for i, job in enumerate(jobs)
        for stream, out in ((job.stdout, sys.stdout), (job.stderr, sys.stderr))
    ]
    for thread in copying:
        thread.start()
    failed = wait(jobs)
    for thread in copying:
        thread.join()
    if failed is None:
        return 0
    status = jobs[failed].returncode
    if status < 0:
        how = f"{signal.Signals(-status).name}; to resume: {processes.resume_command()}"
    else:
        how = f"status {status}"  # its own message is above
    print(
        f"error: process {failed} of {len(jobs)} (counted from 0) ended first, with {how}",
        file=sys.stderr,
    )
    return 2


def start(count: int, command: Sequence[str]) -> list[subprocess.Popen[str]]:
    """Starts `count` processes that find each other at a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        flags = [f"--coordinator=localhost:{probe.getsockname()[1]}", f"--num_processes={count}"]
    return [
        subprocess.Popen(
            [sys.executable, *command, *flags, f"--process_id={i}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=os.environ
            | {"JAX_PLATFORMS": "cpu", processes.LAUNCHER: processes.resume_command()},
            start_new_session=True,  # Ctrl-C reaches them through this process, once
        )
        for i in range(count)
    ]


def wait(jobs: Sequence[subprocess.Popen[str]]) -> int | None:
    """Waits until all have ended, and returns the number of the first that failed, if any.

    The others notice that by themselves, see `rstg_jax.processes`; those that do not are killed.
    """
    failed, deadline = None, float("inf")
    while any(job.poll() is None for job in jobs):
        time.sleep(0.1)
        if failed is None and (failed := first_failed(jobs)) is not None:
            deadline = time.monotonic() + STOP_SECONDS
        if time.monotonic() > deadline:
            send(jobs, signal.SIGKILL)
    return first_failed(jobs) if failed is None else failed


def first_failed(jobs: Sequence[subprocess.Popen[str]]) -> int | None:
    """The lowest number of those that have ended with an error, if any."""
    return next((i for i, job in enumerate(jobs) if job.poll()), None)


def send(jobs: Sequence[subprocess.Popen[str]], number: int) -> None:
    """Sends a signal to all that are still running."""
    for job in jobs:
        if job.poll() is None:
            job.send_signal(number)


def copy(stream: IO[str] | None, prefix: str, out: IO[str]) -> None:
    """Copies lines with a prefix."""
    assert stream is not None
    for line in stream:
        print(f"{prefix}{line}", end="", file=out, flush=True)


if __name__ == "__main__":
    sys.exit(cli.run(main))
