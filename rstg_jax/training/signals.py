"""Ends from outside: a clean stop on a signal or when the time is over, and lost processes."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from rstg_jax import processes
from rstg_jax.errors import UserError

CARRIED = "stop"  # in a batch and in the sums of its update


class StopSignal:
    """Records the first of `processes.SIGNALS`, or that a time is over; then SIGINT interrupts.

    Use as a context manager around the work that asks it. Outside the main thread, where Python
    allows no handlers, it records nothing. A SIGHUP that nohup lets be ignored stays so.
    """

    def __init__(self, max_seconds: float | None = None):
        """Begins to count `max_seconds`; None for no end."""
        self.name = ""
        self._passed_on = False
        self._end = None if max_seconds is None else time.monotonic() + max_seconds
        self._previous: dict[int, Any] = {}
        self._terminals = [number for number in (1, 2) if os.isatty(number)]  # stdout and stderr

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in processes.SIGNALS:
                ignored = signal.getsignal(number) == signal.SIG_IGN
                if not ignored or number in (signal.SIGINT, signal.SIGTERM):
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: object) -> None:
        self.name = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.name == "SIGHUP":  # the terminal is gone: to write to it would stop the saving
            for number in self._terminals:
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)

    def local(self) -> bool:
        """Whether this process was told to stop, or its time is over."""
        if not self.name and self._end is not None and time.monotonic() >= self._end:
            self.name = "train.max_seconds"
        return bool(self.name)

    def agreed(self) -> bool:
        """Whether any process was told to stop; all processes must ask at the same points."""
        if jax.process_count() == 1:
            return self.local()
        return bool(np.any(multihost_utils.process_allgather(np.array(self.local()))))

    def passed_on(self) -> bool:
        """Whether an update carried the word of any process, see `carried`.

        All processes that have fetched the sums of the same updates get the same answer.
        """
        return self._passed_on if jax.process_count() > 1 else self.local()

    def carried(self, rows: int) -> dict[str, np.ndarray]:
        """The flag in a batch of several processes, beside its `rows` here: whether to stop."""
        return {CARRIED: np.full(rows, self.local(), np.float32)} if jax.process_count() > 1 else {}

    def fetched(self, sums: dict[str, np.ndarray]) -> None:
        """Takes the word of all processes out of the sums of an update."""
        self._passed_on |= bool(sums.pop(CARRIED, 0))


@contextlib.contextmanager
def lost_processes_told() -> Iterator[None]:
    """Lets a process end in one line if its errors come from the loss of another one."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # A save that fails is told as the user's error, whatever the reason.
        reason = error.__cause__ if isinstance(error, UserError) else error
        if isinstance(reason, (jax.errors.JaxRuntimeError, ValueError)):
            processes.wait_for_verdict()
        raise
