"""Checkpoints: the one module that touches Orbax.

``WORKDIR/checkpoints/<step>/`` holds the whole `TrainState` and a JSON ``meta``: config, label
names, shape of a clip, sums of the unfinished logging window, metrics, provenance of the data.
The data position is the step (see `rstg_jax.data.train_batches`). The latest `keep` checkpoints
are kept, and the best by top-1 (or mAP) on the test split even when it is older than these. Saving
is asynchronous; a checkpoint exists only once it is whole. Its files have checksums, and damage is
found before anything is read from it (`rstg_jax.training.integrity`). In a bucket, a checkpoint has
its name from the beginning, and a last file says that it is whole.
"""

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy

from rstg_jax import storage
from rstg_jax.errors import UserError, first_line, translated
from rstg_jax.training import integrity, scores, train_state
from rstg_jax.training.lock import Lock

_log = logging.getLogger(__name__)


class StoredVariable(NamedTuple):
    """Where an array lies in a stored state, and its shape."""

    keys: tuple[str, ...]
    shape: tuple[int, ...]


class Checkpoints:
    """The checkpoints of one working directory. Use as a context manager, or `close`.

    Unless they are only read, the directory is locked meanwhile, see `rstg_jax.training.lock`.
    """

    def __init__(self, workdir: str | storage.Path, keep: int = 2, read_only: bool = False):
        workdir = storage.path(workdir)
        workdir = workdir.absolute() if isinstance(workdir, Path) else workdir
        self.path = workdir / "checkpoints"
        if read_only and not self.path.is_dir():
            raise UserError(f"no checkpoint in {workdir}: {self.path} does not exist")
        options = ocp.CheckpointManagerOptions(
            create=False,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
            async_options=ocp.AsyncOptions(
                post_finalization_callback=self._write_manifest,
                # Otherwise threads wait for a directory for minutes that could not be made.
                create_directories_asynchronously=False,
            ),
            best_fn=_value,  # without it no metrics would be written; the policy decides
            preservation_policy=preservation_policy.AnyPreservationPolicy(
                [
                    preservation_policy.LatestN(keep),
                    preservation_policy.BestN(
                        get_metric_fn=_value,
                        n=1,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
        )
        self._writing: int | None = None
        self._verified: set[int] = set()
        first = jax.process_index() == 0
        self._lock = Lock(workdir, enabled=first and not read_only)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._lock)
            with translated(lambda error: f"cannot use {self.path}: {_shortened(error)}"):
                if not read_only:
                    self.path.mkdir(parents=True, exist_ok=True)
                    if first:
                        self._verified = integrity.set_damaged_aside(self.path)
                    if jax.process_count() > 1:
                        multihost_utils.sync_global_devices("damaged checkpoints are set aside")
                # Reads the scores of all checkpoints.
                self._manager = ocp.CheckpointManager(self.path, options=options)
            self._opened = stack.pop_all()  # of what `close` releases

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except UserError as error:
            if kind is None:
                raise
            _log.warning("%s", error)  # the first exception is the cause

    def close(self) -> None:
        """Waits for the last save, frees the threads and unlocks the directory."""
        with self._opened, self._explained(self._writing):
            self._manager.close()

    @property
    def latest(self) -> int | None:
        """The newest step, or None."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """The step of the highest test score (the later of equals); the newest if none has one."""
        return max(self.scores(), default=(-1.0, self.latest))[1]

    @property
    def best_score(self) -> float:
        """The highest test score among the checkpoints; -1 if none has one."""
        return max(self.scores(), default=(-1.0, None))[0]

    def save(
        self,
        step: int,
        state: train_state.TrainState,
        meta: Mapping[str, Any],
        score: Mapping[str, float] | None,
    ) -> None:
        """Starts to save; the arrays have been copied when it returns.

        Args:
          step: the number of updates made.
          state: to save.
          meta: anything that JSON can hold.
          score: see `score_of`, if the test split was evaluated at this step.

        Raises:
          UserError: this or the previous save failed: disk full, no permission; or `check` did.
        """
        self.check()
        self.wait()
        with self._explained(step):
            if step in self._manager.all_steps():
                self._manager.delete(step)
            self._writing = step
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(dict(meta))
                ),
                metrics=None if score is None else dict(score),
                force=True,
            )

    def scores(self) -> list[tuple[float, int]]:
        """Test score and step of every checkpoint that has one."""
        steps = self._manager.all_steps()
        return [(score, step) for step in steps if (score := self.score(step)) is not None]

    def score(self, step: int) -> float | None:
        """The test score of a checkpoint, or None."""
        score = self._manager.metrics(step)
        return _value(score) if score else None

    def add_score(self, step: int, score: Mapping[str, float]) -> None:
        """Gives a checkpoint that was saved without a score its own, as `save` does.

        All processes must call it: a run of one process may be gone on with by several.
        """
        self.wait()
        handler = ocp.JsonCheckpointHandler(filename="metrics")
        directory = self.path / str(step)
        with self._explained(step), ocp.Checkpointer(handler) as writer:
            writer.save(directory / "metrics", args=ocp.args.JsonSave(dict(score)))
            if jax.process_index() == 0:  # two would list each other's unfinished manifests
                integrity.write_manifest(directory)
            self._manager.reload()

    def check(self) -> None:
        """Raises `UserError` if the directory is gone, or another run has taken it over."""
        self._lock.check()

    def wait(self) -> None:
        """Waits until the last save is written; raises `UserError` if it failed."""
        with self._explained(self._writing):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def meta(self, step: int) -> dict[str, Any]:
        """Reads the JSON part of one checkpoint."""
        with self._readable(step):
            return self._manager.restore(
                step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
            )["meta"]

    def run_meta(self, step: int) -> dict[str, Any]:
        """The JSON part of a checkpoint that `run.save` wrote, with what `load` needs."""
        meta = self.meta(step)
        with self._readable(step):
            _check_meta(meta)
        return meta

    def restore(self, step: int, abstract: Any) -> train_state.TrainState:
        """Reads a state into the shapes, types and shardings of `abstract`, on any mesh."""
        with self._readable(step):
            return self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
            )["state"]

    def stored_variables(self, step: int) -> dict[str, StoredVariable]:
        """The variables for evaluation by path, such as ``params/head/bias``; reads no values."""
        with self._readable(step):
            metadata = ocp.PyTreeCheckpointer().metadata(self.path / str(step) / "state")
            state = metadata.item_metadata.tree
            average = "ema_params" if state.get("ema_params") else "params"
            return {
                "/".join((name, *keys)): StoredVariable((key, *keys), tuple(leaf.shape))
                for name, key in (("params", average), ("batch_stats", "batch_stats"))
                for keys, leaf in traverse_util.flatten_dict(state.get(key) or {}).items()
            }

    def restore_variables(
        self, step: int, stored: Mapping[str, StoredVariable], abstract: Mapping[str, Any]
    ) -> dict[str, jax.Array]:
        """Reads variables for evaluation, and nothing else of the state.

        Args:
          step: of the checkpoint.
          stored: of `stored_variables`.
          abstract: path -> shape, type and sharding, of those that are wanted.
        """
        nested = traverse_util.unflatten_dict(
            {stored[path].keys: leaf for path, leaf in abstract.items()}
        )
        with self._readable(step):
            options = ocp.args.PyTreeRestore(
                item=nested,
                restore_args=ocp.checkpoint_utils.construct_restore_args(nested),
                partial_restore=True,
            )
            path = self.path / str(step) / "state"
            read = traverse_util.flatten_dict(ocp.PyTreeCheckpointer().restore(path, args=options))
            return {path: read[stored[path].keys] for path in abstract}

    def resolve(self, which: str) -> int:
        """Returns the step that ``best``, ``last`` or a number means."""
        known = sorted(self._manager.all_steps())
        if not known:
            raise UserError(f"no checkpoint in {self.path}")
        if which in ("best", "last"):
            return (self.best if which == "best" else self.latest) or 0
        if not which.isdecimal() or int(which) not in known:
            choices = ", ".join(map(str, known))
            raise UserError(f"no checkpoint {which!r} in {self.path}; choose best, last, {choices}")
        return int(which)

    @contextlib.contextmanager
    def _explained(self, step: int | None) -> Iterator[None]:
        try:
            with storage.errors(self.path):
                yield
        except (OSError, ValueError, RuntimeError) as error:
            good = self.latest_whole()
            kept = "there is none before it" if good is None else f"step {good} is kept"
            raise UserError(
                f"cannot save the checkpoint of step {step} in {self.path}{_free(self.path)}: "
                f"{_shortened(error)}; the last good checkpoint: {kept}. When this is mended, "
                "start again"
            ) from error

    @contextlib.contextmanager
    def _readable(self, step: int) -> Iterator[None]:
        if step not in self._verified:
            integrity.verify(self.path, step)
            self._verified.add(step)
        path = self.path / str(step)
        with translated(lambda error: f"cannot read checkpoint {path}: {_shortened(error)}"):
            yield

    def latest_whole(self) -> int | None:
        """The newest complete checkpoint on disk; the manager also counts failed ones."""
        return max(integrity.steps(self.path), default=None)

    def _write_manifest(self) -> None:
        """Runs on the first process before Orbax makes the finished directory a checkpoint."""
        if isinstance(self.path, Path):
            name = f"{self._writing}.orbax-checkpoint-tmp"
            # Not `glob`, which keeps every pattern that it has seen.
            (directory,) = (path for path in self.path.iterdir() if path.name.startswith(name))
            integrity.write_manifest(directory)
        else:
            integrity.write_manifest(self.path / str(self._writing))


def plain(value: Any) -> Any:
    """Turns NumPy scalars and arrays inside dicts and lists into what JSON can hold."""
    return json.loads(json.dumps(value, default=lambda v: np.asarray(v).tolist()))


def _check_meta(meta: Any) -> None:
    """Raises `ValueError` unless the JSON part of a checkpoint has what every version wrote."""
    types = {"config": dict, "label_names": list, "video_shape": list, "total_steps": int}
    for key, kind in types.items():
        if not isinstance(meta, dict) or not isinstance(meta.get(key), kind):
            raise ValueError(f"its metadata have no {key}")
    if not all(isinstance(name, str) for name in meta["label_names"]):
        raise ValueError("its label_names are no texts")
    if len(meta["video_shape"]) != 4 or not all(type(n) is int for n in meta["video_shape"]):
        raise ValueError("its video_shape is not four numbers")


def _free(directory: storage.Path) -> str:
    """The free space of a local directory, in brackets."""
    if not isinstance(directory, Path):
        return ""
    free = shutil.disk_usage(directory).free / 1e6 if directory.is_dir() else 0.0
    return f" ({free:.0f} MB free)"


def score_of(tested: Mapping[str, Any]) -> dict[str, float]:
    """The metric of a test by which checkpoints are compared, with its name."""
    name = scores.headline(tested)
    return {name: tested[name]}


def _value(score: Mapping[str, float]) -> float:
    return score[scores.headline(score)]


def _shortened(error: BaseException) -> str:
    """The first line of an error of Orbax, without what TensorStore repeats."""
    # It names the cause after the same long paths several times, and then the array.
    pattern = r" \[(?:os_error_code|source locations|tensorstore_spec)="
    text = re.split(pattern, first_line(error))[0]
    return text if len(text) <= 300 else f"{text[:150]} ... {text[-150:]}"
