"""A training run: its fixed parts, its progress, and its records."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from rstg_jax import config, data, storage
from rstg_jax.errors import UserError
from rstg_jax.models import classifier
from rstg_jax.training import (
    agreement,
    checkpoint,
    eval_loop,
    init_from,
    losses,
    not_finite,
    same_run,
    scores,
    sharding,
    steps,
    train_state,
)
from rstg_jax.training.experiment import Experiment

COUNTS = ("skipped", "rollbacks", "batch_offset")  # of `Progress`, saved and reported


@dataclasses.dataclass(frozen=True)
class Run:
    """The fixed parts of a run.

    Attributes:
      experiment: its configuration.
      workdir: its directory.
      mesh: its devices.
      module: the network.
      setup: what the training step closes over.
      abstract: shapes, types and shardings of the state.
      train_source: the training split.
      test_source: the test split.
      video_shape: shape of one training clip, `(t, h, w, c)`.
      total_steps: number of updates.
      on_nan: what to do if an update is not finite.
      fed: names of the arrays of a batch that are sent to the devices.
      make_batch: makes a batch on the devices from what is fed, or None if all of it is.
      train_step: jitted for the mesh.
      eval_step: compiled for the mesh.
      checkpoints: of the working directory.
    """

    experiment: Experiment
    workdir: storage.Path
    mesh: Mesh
    module: nn.Module
    setup: train_state.TrainSetup
    abstract: Any
    train_source: data.Source
    test_source: data.Source
    video_shape: tuple[int, ...]
    total_steps: int
    on_nan: not_finite.Policy
    fed: tuple[str, ...]
    make_batch: Callable[[steps.Batch], steps.Batch] | None
    train_step: Any
    eval_step: eval_loop.EvalStep
    checkpoints: checkpoint.Checkpoints

    @property
    def num_parameters(self) -> int:
        """Number of weights."""
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.abstract.params))

    @property
    def eval_batch_size(self) -> int:
        """Number of videos in an evaluation batch."""
        max_clips, views = self.experiment.train.max_eval_clips, self.experiment.data.views
        return eval_loop.eval_batch_size(max_clips, self.mesh, views)

    @property
    def provenance(self) -> dict[str, Any]:
        """Origin of the videos of both splits."""
        sources = {"train": self.train_source, "test": self.test_source}
        return {split: eval_loop.provenance(source) for split, source in sources.items()}


@dataclasses.dataclass
class Progress:
    """The parts of a run that change.

    Attributes:
      state: weights, optimiser and random key; its step is `step`.
      step: number of updates made.
      window: sums since the last logged line.
      seconds: wall time of the run up to the checkpoint that this process resumed from.
      resumed: whether this process resumed from a checkpoint.
      init_source: where the weights of step 0 came from, see `init_from.weights`; None for scratch.
      test_metrics: metrics of the test split at this step, or None.
      eval_pending: an evaluation was due at this step and was interrupted.
      best: highest test score that was saved, see `scores.headline`; -1 before the first
        evaluation.
      skipped: updates that were left out, as they were not finite.
      rollbacks: how often the run went back to a checkpoint.
      batch_offset: batches that were passed over by that; the next update is of batch
        `step + batch_offset`.
    """

    state: train_state.TrainState
    step: int = 0
    window: dict[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    resumed: bool = False
    init_source: dict[str, Any] | None = None
    test_metrics: dict[str, Any] | None = None
    eval_pending: bool = False
    best: float = -1.0
    skipped: int = 0
    rollbacks: int = 0
    batch_offset: int = 0


@data.read_once()
def set_up(experiment: Experiment, workdir: storage.Path) -> Run:
    """Opens data, devices and checkpoints, builds the steps, and checks that they fit.

    The data are opened last, as a first check of many videos may take hours.

    Raises:
      UserError: the config does not fit the data, the devices or the directory.
    """
    mesh = sharding.make_mesh(experiment.mesh)
    settings = experiment.train
    sharding.check_batch_size(settings.batch_size, mesh, "train.batch_size", settings.accumulate)
    agreement.check(experiment, {})
    video_shape, loss = experiment.data.clip_shape, experiment.loss
    experiment.data.check_lists()
    module = classifier.build(experiment.model, experiment.data.num_classes)
    on_nan = not_finite.parse(settings.on_nan)
    make_setup = _setup_of_length(experiment, module, on_nan)
    # Shapes do not depend on the number of updates, which follows from that of the videos.
    abstract = train_state.abstract_state(make_setup(1), video_shape, mesh)
    _check_frames(experiment, module, abstract.variables)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(checkpoint.Checkpoints(workdir, settings.keep))
        _check_begin(experiment, checkpoints, workdir, abstract)
        train_source, test_source = _open_splits(experiment)
        agreement.check(experiment, {"train": train_source, "test": test_source})
        fed, make_batch = _feeding(experiment.batch_keys, train_source, mesh)
        total_steps = settings.steps(len(train_source))
        setup = make_setup(total_steps)
        run = Run(
            experiment=experiment,
            workdir=workdir,
            mesh=mesh,
            module=module,
            setup=setup,
            abstract=abstract,
            train_source=train_source,
            test_source=test_source,
            video_shape=video_shape,
            total_steps=total_steps,
            on_nan=on_nan,
            fed=fed,
            make_batch=make_batch,
            train_step=steps.jit_train_step(setup, mesh, abstract),
            eval_step=steps.jit_eval_step(
                module,
                mesh,
                abstract.variables,
                experiment.model.view_average,
                settings.max_eval_clips,
                loss.kind,
                experiment.data.logit_places(train_source.label_names),
            ),
            checkpoints=checkpoints,
        )
        stack.pop_all()  # whoever has the run closes them
    return run


def _setup_of_length(
    experiment: Experiment, module: nn.Module, on_nan: not_finite.Policy
) -> Callable[[int], train_state.TrainSetup]:
    """What makes the training step's fixed parts, given the number of updates."""
    return lambda total_steps: train_state.make_setup(
        module,
        experiment.loss,
        experiment.optimizer,
        total_steps,
        skip_not_finite=on_nan.action == "skip",
        accumulate=experiment.train.accumulate,
    )


def _check_frames(experiment: Experiment, module: nn.Module, variables: Any) -> None:
    """Checks where terms of the objective begin, by the shapes of what the network makes."""
    loss = experiment.loss
    if loss.frame_weight or loss.attention_weight:
        clips = steps.abstract_inputs(experiment.data, experiment.data.clip_shape)
        apply = functools.partial(module.apply, train=False)
        losses.check_starts(loss, jax.eval_shape(apply, variables, **clips)[1])


def _check_begin(
    experiment: Experiment,
    checkpoints: checkpoint.Checkpoints,
    workdir: storage.Path,
    abstract: Any,
) -> None:
    """Checks all that the run will begin with but its data, see `rstg_jax.training.resume`."""
    # A file system that is not shared, or is slow to show a new file, has another one.
    agreement.check_same({"the newest checkpoint in --workdir": checkpoints.latest})
    if checkpoints.latest is not None:
        meta = checkpoints.run_meta(checkpoints.latest)
        same_run.check(experiment, meta["data"], meta, workdir)
        return
    experiment.model.check_pooling()
    if experiment.train.init_from:
        init_from.check(experiment.train, abstract.variables)


def _open_splits(experiment: Experiment) -> tuple[data.Source, data.Source]:
    """Opens the training and the test split; checks both against the config and each other."""
    train_source = eval_loop.open_split(experiment.data, "train")
    test_source = eval_loop.open_split(experiment.data, "test")
    data.refuse_endless(test_source)
    if not data.labelled(test_source):
        raise UserError(
            f"{test_source.name} has no labels to test on: set data.test_split=validation, and "
            "label it when the model is trained (python -m rstg_jax.evaluate --split=test)"
        )
    if train_source.label_names != test_source.label_names:
        raise UserError(f"{train_source.name} and {test_source.name} have different labels")
    data.check_source(experiment.data, train_source, "train")
    data.check_source(experiment.data, test_source, "test")
    return train_source, test_source


def _feeding(
    keys: tuple[str, ...], source: data.Source, mesh: Mesh
) -> tuple[tuple[str, ...], Callable[[steps.Batch], steps.Batch] | None]:
    """The arrays that are sent to the devices, and what makes batches of them there, if any."""
    if isinstance(source, data.OnDevice):
        return (*source.fed, "mask"), batches_of(source, keys, mesh)
    return keys, None


def batches_of(
    source: data.OnDevice, keys: Sequence[str], mesh: Mesh
) -> Callable[[steps.Batch], steps.Batch]:
    """Makes batches of addresses of examples; each device makes its own rows.

    Args:
      source: makes the examples.
      keys: arrays of a batch that training reads.
      mesh: the mesh.
    """
    rows, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    constants = jax.device_put(source.constants, whole)

    @functools.partial(jax.jit, in_shardings=(whole, rows), out_shardings=rows)
    def make(constants: Any, fed: steps.Batch) -> steps.Batch:
        batch = {**source.make(constants, fed), **fed}
        return {key: batch[key] for key in keys}

    return lambda fed: make(constants, fed)


def save(run: Run, progress: Progress, seconds: float) -> None:
    """Starts to save the state, which must be finite.

    Args:
      run: the run.
      progress: its state and counters.
      seconds: wall time of the run.
    """
    test_metrics = scalars(progress.test_metrics)
    meta = {
        "config": config.to_dict(run.experiment),
        "label_names": list(run.train_source.label_names),
        "video_shape": list(run.video_shape),
        "total_steps": run.total_steps,
        "step": progress.step,
        "window": progress.window,
        "seconds": seconds,
        "eval_pending": progress.eval_pending,
        "test": test_metrics,
        "data": run.provenance,
        "init_source": progress.init_source,
        **{name: getattr(progress, name) for name in COUNTS},
    }
    score = test_metrics and checkpoint.score_of(test_metrics)
    run.checkpoints.save(progress.step, progress.state, checkpoint.plain(meta), score)
    progress.best = max([progress.best, *(score or {}).values()])


def result(run: Run, progress: Progress, seconds: float) -> dict[str, Any]:
    """Content of result.json after the last evaluation."""
    devices = run.mesh.devices
    return checkpoint.plain(
        {
            "name": run.experiment.name,
            "split": "test",
            **(progress.test_metrics or {}),
            "steps": progress.step,
            "train_examples": progress.step * run.experiment.train.batch_size,
            "best": {
                "step": run.checkpoints.best,
                scores.headline(progress.test_metrics or ()): run.checkpoints.best_score,
            },
            "wall_time_seconds": seconds,
            "parameters": run.num_parameters,
            "devices": f"{devices.size} x {devices.flat[0].device_kind}",
            "config_hash": config.config_hash(run.experiment),
            "data": run.provenance,
            "init_source": progress.init_source,
            **{name: getattr(progress, name) for name in COUNTS},
            "label_names": run.train_source.label_names,
        }
    )


def scalars(values: dict[str, Any] | None) -> dict[str, Any] | None:
    """Leaves out the confusion matrix and other arrays, which are too large for a log line."""
    return values and {k: v for k, v in values.items() if np.ndim(v) == 0}
