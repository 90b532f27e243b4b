"""Runs a model over a whole split, each example exactly once, on any devices and processes.

Each example carries its index, so outputs can be matched whatever the device layout.
"""

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from rstg_jax import data
from rstg_jax.errors import UserError
from rstg_jax.training import logs, metrics, sharding, steps

EvalStep = Callable[[Mapping[str, Any], steps.Batch], tuple[steps.Sums, Mapping[str, jax.Array]]]


class BatchOutput(NamedTuple):
    """Outputs of one batch.

    Attributes:
      sums: from `steps.eval_step`, over all processes.
      ranking: from `steps.eval_step`, rows of all processes.
      indices: of this process's rows in the source, int32 `[b]`.
      ids: names of these rows, `[b]`; None if the source names no videos.
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


def open_split(config: data.DataConfig, split: str) -> data.Source:
    """Opens a split and refuses an empty one."""
    source = config.open(split)
    if len(source) == 0:
        raise UserError(f"the {split} split of {source.name} is empty")
    return source


def provenance(source: data.Source) -> dict[str, Any]:
    """Name of a source and origin of its videos, to be recorded."""
    return {"name": source.name, **source.provenance}


def eval_batch_size(max_clips: int, mesh: Mesh, views: int = 1) -> int:
    """Number of videos in an evaluation batch, such that their views are about `max_clips`.

    Rounded up to a multiple of the devices: padding is masked, so no metric changes.
    """
    pieces = int(np.lcm(sharding.batch_devices(mesh), len(sharding.processes_of(mesh))))
    return -(-max_clips // (views * pieces)) * pieces


def evaluate(
    eval_step: EvalStep,
    variables: Mapping[str, Any],
    source: data.Source,
    mesh: Mesh,
    batch_size: int,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """Evaluates a model on all examples of a source, each exactly once.

    Args:
      eval_step: from `steps.jit_eval_step`.
      variables: of the model.
      source: the split.
      mesh: the mesh.
      batch_size: global; the last batch is padded and masked.
      stop: called between batches; the evaluation is given up when it returns True.

    Returns:
      ``loss``, ``top1``, ``top5`` (floats), ``examples`` (int) and ``confusion``
      (int64 `[true predicted]`) or what `metrics.finalize` has in its place; None if given up.
    """
    totals: dict[str, Any] = {}
    with contextlib.closing(run(eval_step, variables, source, mesh, batch_size)) as parts:
        for part in parts:
            if stop():
                return None
            totals = metrics.add(totals, part.sums)
    return metrics.finalize(totals)


def run(
    eval_step: EvalStep,
    variables: Mapping[str, Any],
    source: data.Source,
    mesh: Mesh,
    batch_size: int,
) -> Generator[BatchOutput]:
    """Yields the predictions of a model on a split, batch by batch; arguments as in `evaluate`."""
    with contextlib.closing(outputs(eval_step, variables, source, mesh, batch_size)) as parts:
        for (sums, ranking), batch in parts:
            yield BatchOutput(sums, ranking, batch["index"], batch.get("id"))


def outputs(
    function: Callable[[Mapping[str, Any], steps.Batch], Any],
    variables: Mapping[str, Any],
    source: data.Source,
    mesh: Mesh,
    batch_size: int,
) -> Generator[tuple[Any, data.Batch]]:
    """Yields what a function makes of a split, batch by batch, and says how far it is.

    Args:
      function: of the variables and the arrays `steps.EVAL_KEYS` of a batch.
      variables: of the model.
      source: the split.
      mesh: the mesh, of all processes, or of this one, which then makes `source` by itself.
      batch_size: global; the last batch is padded and masked.

    Yields:
      The result on the host, and the batch without what the network reads.
    """
    first, members = jax.process_index() == 0, sharding.processes_of(mesh)
    batches = data.eval_batches(
        source,
        batch_size=batch_size,
        process_index=members.index(jax.process_index()),
        process_count=len(members),
    )
    pending: tuple[Any, data.Batch] | None = None

    def fetched() -> tuple[Any, data.Batch]:
        assert pending is not None  # `eval_batches` refuses an empty source
        results, batch = pending
        return jax.device_get(results), batch

    with contextlib.closing(batches), logs.Meter(len(source), "videos", first) as meter:
        for batch in batches:
            put = sharding.put_batch({k: batch[k] for k in steps.EVAL_KEYS if k in batch}, mesh)
            results = function(variables, put)
            if pending is not None:  # one batch behind, so that host and device overlap
                yield fetched()
                meter.advance(batch_size)
            pending = results, {k: v for k, v in batch.items() if k not in steps.NETWORK_KEYS}
        yield fetched()


def collect(parts: Sequence[BatchOutput], length: int) -> Predictions:
    """Puts the rankings of all batches in the order of a source of `length` examples."""
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
