"""Work in several processes, and commands that do it."""

import concurrent.futures
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import absl.logging

from rstg_jax import cli
from rstg_jax.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_command(
    command: Callable[[], object], after_stop: str = "the same command goes on from here"
) -> None:
    """Runs a command that uses `in_processes`; Ctrl-C and SIGTERM stop all its processes."""
    # TFDS warns of every configuration that is not a published one.
    absl.logging.set_verbosity(absl.logging.ERROR)

    def resumable() -> None:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            command()
        except KeyboardInterrupt:
            print(f"\nStopped; {after_stop}.", file=sys.stderr)
            sys.exit(130)
        finally:
            signal.signal(signal.SIGTERM, before)

    cli.run_or_exit(resumable)


def in_processes(
    function: Callable[[Task], Result], tasks: Sequence[Task], processes: int
) -> Iterator[Result]:
    """Results of a function in any order; with one process, made in this one.

    Raises:
      UserError: If a process dies, such as for want of memory.
    """
    if processes == 1 or len(tasks) == 1:
        yield from map(function, tasks)
        return
    # "spawn": TFDS and array_record have threads, which do not survive a fork.
    pool = concurrent.futures.ProcessPoolExecutor(
        min(processes, len(tasks)),
        multiprocessing.get_context("spawn"),
        _leave_the_end_to_parent,
    )
    before = set(multiprocessing.active_children())
    try:
        futures = [pool.submit(function, task) for task in tasks]
        for future in concurrent.futures.as_completed(futures):
            yield future.result()
    except BrokenProcessPool as e:
        raise UserError(
            f"one of {processes} processes died, perhaps for want of memory; the next run resumes, "
            "with fewer --processes if need be"
        ) from e
    except BaseException:
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_the_end_to_parent() -> None:
    """Ctrl-C in a terminal reaches all processes; this one ends when its parent does, however."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent:
            parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
