"""Runs a model over a whole split, each example exactly once, on any devices and processes.

The index of an example goes through the devices with it, so that what comes back finds its name
wherever the devices put it.
"""

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from rstg_jax import data
from rstg_jax.training import logs, sharding, steps

EvalStep = Callable[[Mapping[str, Any], steps.Batch], tuple[steps.Sums, Mapping[str, jax.Array]]]


class BatchOutput(NamedTuple):
    """What one batch gave.

    Attributes:
      sums: of `steps.eval_step`, over all processes.
      ranking: of `steps.eval_step`, rows of all processes.
      indices: of this process's rows in the source, int32 `[b]`.
      ids: of these, `[b]`; None if the source names no videos.
    """

    sums: dict[str, np.ndarray]
    ranking: dict[str, np.ndarray]
    indices: np.ndarray
    ids: np.ndarray | None


class Predictions(NamedTuple):
    """The best classes of every video of a split, in the order of the split.

    Attributes:
      ids: names of the videos.
      labels: classes, best first, int `[n k]`.
      probabilities: of these, float `[n k]`.
    """

    ids: list[str]
    labels: np.ndarray
    probabilities: np.ndarray


def run(
    eval_step: EvalStep,
    variables: Mapping[str, Any],
    source: data.Source,
    mesh: Mesh,
    batch_size: int,
) -> Generator[BatchOutput]:
    """Computes a split batch by batch, each example exactly once.

    Args:
      eval_step: from `steps.jit_eval_step`.
      variables: the model's.
      source: the split.
      mesh: where to compute.
      batch_size: global; the last batch is padded and masked.
    """
    first = jax.process_index() == 0
    batches = data.eval_batches(
        source,
        batch_size=batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    pending: tuple[Any, np.ndarray, np.ndarray | None] | None = None

    def fetched() -> BatchOutput:
        assert pending is not None  # `eval_batches` refuses an empty source
        results, indices, ids = pending
        sums, ranking = jax.device_get(results)
        return BatchOutput(sums, ranking, indices, ids)

    with contextlib.closing(batches), logs.Meter(len(source), "videos", first) as meter:
        for batch in batches:
            put = sharding.put_batch({k: batch[k] for k in steps.EVAL_KEYS}, mesh)
            results = eval_step(variables, put)
            if pending is not None:  # one batch behind, so that host and device overlap
                yield fetched()
                meter.advance(batch_size)
            pending = results, batch["index"], batch.get("id")
        yield fetched()


def collect(parts: Sequence[BatchOutput], length: int) -> Predictions:
    """Puts the rankings of all batches in the order of a source of `length` examples.

    Rows are placed by the index that went through the devices with them, wherever these put them.
    """
    rows = {
        key: np.concatenate([part.ranking[key] for part in parts])
        for key in ("index", "label", "probability")
    }
    real = rows["index"] >= 0
    order = np.argsort(rows["index"][real])
    assert np.array_equal(rows["index"][real][order], np.arange(length))  # each exactly once
    indices = np.concatenate([part.indices for part in parts])
    names = [part.ids for part in parts if part.ids is not None]
    ids = gather_ids(indices, np.concatenate(names), length) if names else map(str, range(length))
    return Predictions(list(ids), rows["label"][real][order], rows["probability"][real][order])


def gather_ids(indices: np.ndarray, names: np.ndarray, length: int) -> list[str]:
    """Collects names of examples from all processes.

    Args:
      indices: of this process's examples, int `[m]`, with repetitions; m is the same everywhere.
      names: of these, text `[m]`.
      length: number of examples of all processes.
    """
    longest = int(multihost_utils.process_allgather(np.int32(names.dtype.itemsize // 4)).max())
    codes = names.astype(f"<U{longest}").view(np.uint32).reshape(len(names), longest)
    indices, codes = multihost_utils.process_allgather((indices, codes), tiled=True)
    ids = np.empty(length, f"<U{longest}")
    ids[indices] = np.ascontiguousarray(codes).view(f"<U{longest}")[:, 0]
    return ids.tolist()
