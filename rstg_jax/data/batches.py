"""Sources of labelled videos, and batches of them for training and for testing."""

import concurrent.futures
import functools
from collections import deque
from collections.abc import Callable, Generator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from rstg_jax.data import workers
from rstg_jax.data.video.decode import Encoded
from rstg_jax.errors import UserError

Batch = workers.Batch

ENDLESS = 1 << 62  # the length of a source without end
_STRETCH = 1 << 40  # examples of an endless source that one training seed may use
_NO_EPOCH = (1 << 64) - 1  # stands for the epoch in random bits that do not shuffle


class Source(Protocol):
    """Labelled videos by index.

    A source with unknown labels (-1) has `labelled = False`. One with `processes` above 0 can be
    pickled, and as many worker processes make its batches.

    Attributes:
      name: A name for messages.
      label_names: Name of each label.
      provenance: Where the videos come from, to be recorded in every result.
    """

    name: str
    label_names: tuple[str, ...]
    provenance: dict[str, str | int | float]

    def __len__(self) -> int:
        """Number of examples; `ENDLESS` if every index is one."""

    def batch(self, indices: np.ndarray) -> Batch:
        """Examples int64 [b] -> {video: [b t h w c], label: int32 [b], ...}.

        Where a video has a set of labels, they are 0/1 in int32 [b classes]. Videos are uint8,
        stored feature maps of the type in which they are stored.
        """


@runtime_checkable
class AugmentedSource(Source, Protocol):
    """A source that augments its examples for training.

    Attributes:
      num_draws: Number of random 64-bit words for one augmentation.
    """

    num_draws: int

    def augmented(self, indices: np.ndarray, bits: np.ndarray) -> Batch:
        """A training batch of indices, int64 [b], and random bits, uint64 [b num_draws]."""


@runtime_checkable
class EncodedSource(Source, Protocol):
    """A source of encoded videos, which can be shown as they are."""

    def encoded(self, index: int) -> Encoded:
        """The video of an example before anything is done to it."""


@runtime_checkable
class OnDevice(Source, Protocol):
    """A source whose training videos are made by a JAX function, from their addresses.

    Attributes:
      constants: Arrays that the function needs, replicated on all devices.
      fed: Names of the arrays of an address.
    """

    constants: Any
    fed: tuple[str, ...]

    def address(self, indices: np.ndarray) -> Batch:
        """Arguments of `make` for the examples int64 [b]: arrays with leading axis `b`."""

    def make(self, constants: Any, address: Mapping[str, Any]) -> Mapping[str, Any]:
        """Makes {video, label, ...} as `batch` does; a pure function to jit."""


def labelled(source: Source) -> bool:
    """Whether the labels of a source are known."""
    return getattr(source, "labelled", True)


def checked_batch(source: Source, indices: np.ndarray) -> Batch:
    """`source.batch(indices)` with its labels checked.

    Raises:
      UserError: If a label is not one of the source's; names the example and the label.
    """
    return _checked(source, indices, source.batch(indices))


def _checked(source: Source, indices: np.ndarray, batch: Batch) -> Batch:
    label = batch["label"]
    lowest = 0 if labelled(source) else -1
    highest = 1 if label.ndim == 2 else len(source.label_names) - 1
    wrong = (label < lowest) | (label > highest)
    if wrong.any():
        row = np.nonzero(wrong)[0][0]
        raise UserError(
            f"{source.name}: example {indices[row]} has label {label[wrong][0]}, but labels go "
            f"from 0 to {highest}: prepare the data again"
        )
    return batch


def labels_of(label: np.ndarray) -> tuple[int, ...]:
    """Numbers of the labels of an example: int [], none if it is -1, or 0/1 [classes]."""
    if label.ndim:
        return tuple(np.flatnonzero(label).tolist())
    return (int(label),) if label >= 0 else ()


def train_batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    prefetch: int = 2,
) -> Generator[Batch]:
    """Endless training batches; the batch of a step is a function of (source, seed, step) alone.

    A finite source is shuffled anew for every epoch and gives every example once per epoch (a batch
    may straddle two epochs). An endless source is read in order, from a place that `seed` chooses.

    Args:
      source: Where the examples are.
      batch_size: Examples of a step over all processes.
      seed: Of the order.
      start_step: The first batch's step.
      process_index: This process yields rows `[i * n, (i + 1) * n)` of each batch, n = batch_size /
        process_count.
      process_count: Number of processes.
      prefetch: Number of batches prepared ahead in a thread; 0 prepares each on demand. A source
        with `processes` has workers for that, see `rstg_jax.data.workers`.

    Yields:
      {video, label, mask: float32 [b] of ones, ...}; of an `OnDevice` source the arrays of its
      addresses in place of videos and labels. Closing the iterator ends the thread.
    """
    rows = _rows(source, batch_size, process_index, process_count)

    def make(step: int) -> Batch:
        positions = step * batch_size + rows
        if isinstance(source, OnDevice):
            batch = source.address(train_indices(len(source), positions, seed))
        else:
            batch = train_examples(source, positions, seed)
        return {**batch, "mask": np.ones(len(rows), np.float32)}

    return _ahead(make, start_step, ENDLESS, prefetch, _processes(source))


def train_examples(source: Source, positions: np.ndarray, seed: int) -> Batch:
    """The examples at some positions of the training order of `seed`, augmented if they can be."""
    indices = train_indices(len(source), positions, seed)
    if not isinstance(source, AugmentedSource):
        return checked_batch(source, indices)
    bits = random_bits(positions, seed, source.num_draws)
    return _checked(source, indices, source.augmented(indices, bits))


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    prefetch: int = 2,
) -> Generator[Batch]:
    """Every example of a finite source once, in order, in batches of equal size.

    The last batch is padded with copies of the last example whose `mask` is 0. Every process yields
    the same number of batches. Arguments are those of `train_batches`.

    Yields:
      {video, label, mask: float32 [b], index: int32 [b] in the source, ...}.
    """
    rows = _rows(source, batch_size, process_index, process_count)
    n = len(source)
    refuse_endless(source)

    def make(step: int) -> Batch:
        positions = step * batch_size + rows
        indices = np.minimum(positions, n - 1)
        batch = checked_batch(source, indices)
        mask = (positions < n).astype(np.float32)
        return {**batch, "mask": mask, "index": indices.astype(np.int32)}

    return _ahead(make, 0, -(-n // batch_size), prefetch, _processes(source))


class Chosen:
    """Some examples of a source; satisfies `Source`.

    Args:
      source: Where they are.
      indices: Of these examples, int64 [n].
    """

    def __init__(self, source: Source, indices: np.ndarray):
        self.name = f"{len(indices)} of {source.name}"
        self.label_names, self.provenance = source.label_names, source.provenance
        self.labelled = labelled(source)
        self.processes = _processes(source)
        self._source, self._indices = source, indices

    def __len__(self) -> int:
        return len(self._indices)

    def batch(self, indices: np.ndarray) -> Batch:
        return checked_batch(self._source, self._indices[indices])


def refuse_endless(source: Source) -> None:
    """Raises `UserError` for a source that has no last example."""
    if len(source) >= ENDLESS:
        raise UserError(
            f"{source.name} is endless: it has no end, so it cannot be evaluated as a whole"
        )


def train_indices(length: int, positions: np.ndarray, seed: int) -> np.ndarray:
    """The examples at the given positions of the training order of `seed`, int64 [b]."""
    if length >= ENDLESS:
        return positions + seed % (ENDLESS // _STRETCH) * _STRETCH
    epochs, places = np.divmod(positions, length)
    indices = np.empty_like(positions)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = _permutation(length, seed, int(epoch))[places[here]]
    return indices


@functools.lru_cache(maxsize=2)
def _permutation(length: int, seed: int, epoch: int) -> np.ndarray:
    """A shuffled order that no NumPy release may change: raw Philox words, sorted."""
    key = np.array([seed % (1 << 64), epoch], np.uint64)
    return np.argsort(np.random.Philox(key=key).random_raw(length), kind="stable")


def random_bits(positions: np.ndarray, seed: int, count: int) -> np.ndarray:
    """Random bits that belong to positions of the training order of `seed`, uint64 [b count]."""
    key = np.array([seed % (1 << 64), _NO_EPOCH], np.uint64)
    # The lowest word of Philox's counter counts blocks of words, the next one positions.
    counters = [np.array([0, position, 0, 0], np.uint64) for position in positions]
    return np.stack([np.random.Philox(key=key, counter=c).random_raw(count) for c in counters])


def _rows(source: Source, batch_size: int, process_index: int, process_count: int) -> np.ndarray:
    """Rows of each global batch that belong to this process, int64 [b]."""
    if not len(source):
        raise UserError(f"{source.name} is empty")
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"batch_size={batch_size} must be a positive multiple of the {process_count} processes"
        )
    size = batch_size // process_count
    return np.arange(process_index * size, (process_index + 1) * size, dtype=np.int64)


def _processes(source: Source) -> int:
    """Worker processes that make the batches of a source; 0 for a thread of this one."""
    return getattr(source, "processes", 0)


def _ahead(
    make: Callable[[int], Batch], start: int, stop: int, prefetch: int, processes: int
) -> Generator[Batch]:
    """Yields make(start), ..., make(stop - 1), computed ahead by workers, or `prefetch` of them."""
    if processes:
        yield from workers.batches(make, start, stop - start, processes)
        return
    if not prefetch:
        yield from map(make, range(start, stop))
        return
    pool = concurrent.futures.ThreadPoolExecutor(1, "batches")
    waiting: deque[concurrent.futures.Future[Batch]] = deque()
    step = start
    try:
        while True:
            while len(waiting) < prefetch and step < stop:
                waiting.append(pool.submit(make, step))
                step += 1
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
