"""Runs work in several processes and stops them together."""

import concurrent.futures
import contextlib
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import absl.logging

from rstg_jax import processes as processes_lib
from rstg_jax.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")


@contextlib.contextmanager
def stoppable(next_step: str = "run the same command again to resume") -> Iterator[None]:
    """Within this context Ctrl-C and SIGTERM stop `in_processes` and end with status 130.

    Args:
      next_step: what the message tells the user to do next.
    """
    # TFDS warns about every configuration that is not a published one.
    absl.logging.set_verbosity(absl.logging.ERROR)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        print(f"\nStopped; {next_step}.", file=sys.stderr)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGTERM, before)


def check_number(processes: int) -> None:
    """Raises `UserError` for a number of processes that cannot be."""
    if processes < 1:
        raise UserError(f"--processes={processes} must be at least 1")


def in_processes(
    function: Callable[[Task], Result], tasks: Sequence[Task], processes: int
) -> Iterator[Result]:
    """Yields the results of a function in any order; with one process, computes them in this one.

    Raises:
      UserError: A process died, probably because it ran out of memory.
    """
    if processes == 1 or len(tasks) == 1:
        yield from map(function, tasks)
        return
    # "spawn": TFDS and array_record have threads, which do not survive a fork.
    pool = concurrent.futures.ProcessPoolExecutor(
        min(processes, len(tasks)),
        multiprocessing.get_context("spawn"),
        processes_lib.follow_parent,
    )
    before = set(multiprocessing.active_children())
    try:
        futures = [pool.submit(function, task) for task in tasks]
        for future in concurrent.futures.as_completed(futures):
            yield future.result()
    except BrokenProcessPool as e:
        raise UserError(
            f"one of {processes} processes died, probably out of memory; run the command again to "
            "resume, with fewer --processes if memory is short"
        ) from e
    except BaseException:
        for child in set(multiprocessing.active_children()) - before:
            child.kill()  # it answers no other signal
        raise
    finally:
        pool.shutdown(cancel_futures=True)
