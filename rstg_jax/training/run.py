"""A training run: what is fixed, what moves on, and how both begin.

Start order: resume the run in the working directory if it has a checkpoint; else begin with the
weights of `train.init_from`, at step 0 with a fresh optimiser; else from scratch. A run that began
with such weights does not need them any more once it has a checkpoint of its own.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh

from rstg_jax import config, data, evaluate
from rstg_jax.errors import UserError
from rstg_jax.inference import protocols
from rstg_jax.models import classifier
from rstg_jax.training import checkpoint, init_from, sharding, steps
from rstg_jax.training.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Run:
    """What does not change during a run; `fed` names the arrays of a batch that training is fed."""

    experiment: Experiment
    workdir: Path
    mesh: Mesh
    module: nn.Module
    setup: steps.TrainSetup
    abstract: Any
    train_source: data.Source
    test_source: data.Source
    video_shape: tuple[int, ...]
    total_steps: int
    fed: tuple[str, ...]
    train_step: steps.TrainStep
    eval_step: evaluate.EvalStep
    checkpoints: checkpoint.Checkpoints

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.train_source.label_names)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.abstract.params))

    @property
    def eval_batch_size(self) -> int:
        """Number of videos in an evaluation batch."""
        wanted, views = self.experiment.train.for_evaluation, protocols.views(self.experiment.data)
        return evaluate.eval_batch_size(wanted, self.mesh, views)

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the videos of both splits come from."""
        sources = {"train": self.train_source, "test": self.test_source}
        return {split: evaluate.provenance(source) for split, source in sources.items()}


@dataclasses.dataclass
class Progress:
    """What changes.

    Attributes:
      state: weights and all; `step` on the host equals `state.step`.
      step: updates made.
      window: sums since the last logged line.
      seconds: wall time up to the checkpoint that this process began with.
      resumed: whether it began with one.
      init_source: where the weights of step 0 are from, see `initialise.weights`; None for scratch.
      test_metrics: metrics of the test split at this step, or None.
      eval_pending: an evaluation was due at this step and had to be given up.
      best: highest test top-1 that was saved; -1 before the first evaluation.
    """

    state: steps.TrainState
    step: int = 0
    window: dict[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    resumed: bool = False
    init_source: dict[str, Any] | None = None
    test_metrics: dict[str, Any] | None = None
    eval_pending: bool = False
    best: float = -1.0


def set_up(experiment: Experiment, workdir: Path) -> Run:
    """Opens data, devices and checkpoints and builds the steps; checks all that can be checked.

    Raises:
      UserError: the config does not fit the data, the devices or the directory.
    """
    mesh = sharding.make_mesh(experiment.mesh)
    sharding.check_batch_size(experiment.train.batch_size, mesh, "train.batch_size")
    train_source = evaluate.open_split(experiment, "train")
    test_source = evaluate.open_split(experiment, "test")
    data.refuse_endless(test_source)
    if not evaluate.labelled(test_source):
        raise UserError(
            f"{test_source.name} has no labels to test on: set data.test_split=validation, and "
            "label it when the model is trained (python -m rstg_jax.evaluate --split=test)"
        )
    if train_source.label_names != test_source.label_names:
        raise UserError(f"{train_source.name} and {test_source.name} have different labels")
    total_steps = experiment.train.steps(len(train_source))
    module = classifier.build(experiment.model, len(train_source.label_names))
    setup = steps.make_setup(module, experiment.loss, experiment.optim, total_steps)
    video_shape = data.video_shape(train_source)
    abstract = steps.abstract_state(setup, video_shape, mesh)
    fed, train_step = experiment.loss.batch_keys, steps.jit_train_step(setup, mesh, abstract)
    if isinstance(train_source, data.OnDevice):
        train_step = steps.with_batches_of(train_source, fed, train_step, mesh)
        fed = (*train_source.fed, "mask")
    return Run(
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
        fed=fed,
        train_step=train_step,
        eval_step=steps.jit_eval_step(module, mesh, abstract, experiment.train.for_evaluation),
        checkpoints=checkpoint.Checkpoints(workdir, experiment.train.keep),
    )


def start(run: Run) -> Progress:
    """Resumes from the newest checkpoint, or begins: with given weights, or from scratch.

    Raises:
      UserError: the checkpoint is of another config, or has trained longer than this one would; or
        the given weights do not fit.
    """
    latest = run.checkpoints.latest
    settings = run.experiment.train
    if latest is None:
        pretrained, init_source = None, None
        if settings.init_from:
            labels = run.train_source.label_names
            pretrained, init_source = init_from.weights(settings, run.abstract, labels)
        state = steps.create_state(run.setup, run.video_shape, settings.seed, run.mesh, pretrained)
        progress = Progress(state, init_source=init_source)
    else:
        meta = run.checkpoints.meta(latest)
        checkpoint.check_same(run.experiment, run.provenance, meta, run.workdir)
        if latest > run.total_steps:
            raise UserError(
                f"{run.workdir} has already trained {latest} steps, more than {run.total_steps}"
            )
        progress = Progress(
            state=run.checkpoints.restore(latest, run.abstract),
            step=latest,
            window=meta["window"],
            seconds=meta["seconds"],
            resumed=True,
            init_source=meta.get("init_source"),
            eval_pending=meta["eval_pending"],
            best=run.checkpoints.best_top1,
        )
    write_json(run.workdir / "config.json", config.to_dict(run.experiment))
    return progress


def save(run: Run, progress: Progress, seconds: float) -> None:
    """Starts to save the state, which is known to be finite.

    Args:
      run: the run.
      progress: what to save of it.
      seconds: wall time of the run.
    """
    figures = without_confusion(progress.test_metrics)
    meta = {
        "config": config.to_dict(run.experiment),
        "label_names": list(run.train_source.label_names),
        "video_shape": list(run.video_shape),
        "total_steps": run.total_steps,
        "step": progress.step,
        "window": progress.window,
        "seconds": seconds,
        "eval_pending": progress.eval_pending,
        "test": figures,
        "data": run.provenance,
        "init_source": progress.init_source,
    }
    top1 = None if figures is None else figures["top1"]
    run.checkpoints.save(progress.step, progress.state, checkpoint.plain(meta), top1)
    progress.best = max(progress.best, -1.0 if top1 is None else top1)


def result(run: Run, progress: Progress, seconds: float) -> dict[str, Any]:
    """Returns what result.json holds after the last evaluation."""
    devices = run.mesh.devices
    return checkpoint.plain(
        {
            "name": run.experiment.name,
            "split": "test",
            **(progress.test_metrics or {}),
            "steps": progress.step,
            "train_examples": progress.step * run.experiment.train.batch_size,
            "best": {"step": run.checkpoints.best, "top1": run.checkpoints.best_top1},
            "wall_time_seconds": seconds,
            "parameters": run.parameters,
            "devices": f"{devices.size} x {devices.flat[0].device_kind}",
            "config_hash": config.config_hash(run.experiment),
            "data": run.provenance,
            "init_source": progress.init_source,
            "label_names": run.train_source.label_names,
        }
    )


def without_confusion(figures: dict[str, Any] | None) -> dict[str, Any] | None:
    """Leaves the confusion matrix out, which is too large for a log line."""
    return figures and {k: v for k, v in figures.items() if k != "confusion"}


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all, from the first process only.

    Raises:
      UserError: it cannot be written.
    """
    if jax.process_index():
        return
    part = path.with_suffix(".part")
    try:
        part.write_text(json.dumps(value, indent=1) + "\n")
        part.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
