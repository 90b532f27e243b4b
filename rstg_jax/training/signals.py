"""Ends from outside: a clean stop on SIGINT and SIGTERM, and the loss of another process."""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from rstg_jax.errors import reason

_log = logging.getLogger(__name__)


class StopSignal:
    """Records the first SIGINT or SIGTERM; a second SIGINT interrupts at once.

    Use as a context manager around the work that asks it. Outside the main thread, where Python
    allows no handlers, it records nothing.
    """

    def __init__(self) -> None:
        self.name = ""
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: object) -> None:
        self.name = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def local(self) -> bool:
        """Whether this process was told to stop."""
        return bool(self.name)

    def agreed(self) -> bool:
        """Whether any process was told to stop; all processes must ask at the same points."""
        if jax.process_count() == 1:
            return self.local()
        return bool(np.any(multihost_utils.process_allgather(np.array(self.local()))))


@contextlib.contextmanager
def lost_processes_told() -> Iterator[None]:
    """Tells at once why a run of several processes fails: JAX waits up to 100 s before it ends."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() > 1:
            _log.error(
                "another process of this run seems to be gone (%s); this one ends within minutes. "
                "Start all of them again: the run resumes from its last checkpoint",
                reason(error)[:300],
            )
        raise
