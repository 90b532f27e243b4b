"""Batches made by worker processes, with Grain: Python's lock lets one process decode only so fast.

A batch is a function of its step alone, so their order, and resuming, do not depend on the number
of workers. Pixels come back through shared memory.
"""

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from absl import flags

from rstg_jax import processes as processes_lib
from rstg_jax.errors import UserError

Batch = dict[str, np.ndarray]

_BUFFERED = 1  # batches that wait in each worker, besides the one that it makes


class Steps:
    """Batches by number, as Grain reads its elements.

    Args:
      make: Makes the batch of a step.
      start: The first step.
      count: Number of steps.
    """

    def __init__(self, make: Callable[[int], Batch], start: int, count: int):
        self._make, self._start, self._count = make, start, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Batch:
        return self._make(self._start + index)


def batches(make: Callable[[int], Batch], start: int, count: int, processes: int) -> Generator[Any]:
    """Yields make(start), make(start + 1), ..., made ahead by worker processes.

    Args:
      make: Makes the batch of a step; it is sent to the workers by cloudpickle.
      start: The first step.
      count: Number of batches.
      processes: Number of workers; each makes one of as many consecutive batches.

    Yields:
      The batches in order. Closing the iterator ends the workers; they also end by themselves when
      this process dies, however it dies.

    Raises:
      UserError: What `make` raises, or a worker was killed.
    """
    grain = _grain()
    steps = grain.MapDataset.source(Steps(make, start, count))
    # One thread: decoding has threads of its own.
    loader = steps.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
    options = grain.MultiprocessingOptions(processes, per_worker_buffer_size=_BUFFERED)
    iterator = iter(loader.mp_prefetch(options, _begin))
    batch: Batch = {}
    deleting: Any = None
    try:
        for batch in iterator:
            deleting = deleting or _deleting(batch)
            # A copy: JAX on a CPU uses the memory of the arrays that it is given. It would stay
            # shared for as long, perhaps until the process ends and Python warns of a leak.
            yield {key: np.array(value) for key, value in batch.items()}
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):
            raise
        raise UserError(
            "a worker process that loads data was killed, perhaps because memory ran out "
            f"({str(error).partition('. ')[0]}); the same command goes on from the last "
            "checkpoint, --config.data.processes sets the number of workers"
        ) from error
    finally:
        iterator.close()
        batch.clear()
        del iterator
        # Otherwise the process may end before that thread is done, with the same warning.
        if deleting is not None:
            deleting.apply(int)


def _deleting(batch: Batch) -> Any:
    """The pool of one thread in which Grain deletes shared memory, which has no public name."""
    pools = (getattr(type(value), "_del_thread_pool", None) for value in batch.values())
    return next(filter(None, pools), None)


def _grain() -> Any:
    try:
        import grain
    except ImportError as error:
        raise UserError(
            "data.processes needs the package grain: pip install grain, or leave it at 0"
        ) from error
    if not flags.FLAGS.is_parsed():  # Grain reads absl's flags, which our commands do not use
        flags.FLAGS.mark_as_parsed()
    grain.config.update("py_traceback_filtering", "off")  # or it adds lines to every message
    return grain


def _begin(worker: int, workers: int) -> None:
    """Prepares a worker, as Grain calls it."""
    del worker, workers
    processes_lib.follow_parent()
