"""The start of a training run.

A run whose working directory has a checkpoint is resumed. Otherwise it begins with the weights of
`train.init_from`, at step 0 with a fresh optimiser, or else from scratch. A run that began with
such weights does not read them again once it has a checkpoint of its own.
"""

import jax

from rstg_jax import config, files
from rstg_jax.errors import UserError
from rstg_jax.training import init_from, same_run, train_state
from rstg_jax.training.run import COUNTS, Progress, Run


def start(run: Run) -> Progress:
    """Resumes from the newest checkpoint, or begins: with given weights, or from scratch.

    Raises:
      UserError: the checkpoint is of another config, or has trained longer than this one would; or
        the given weights do not fit.
    """
    latest = run.checkpoints.latest
    progress = _begin(run) if latest is None else from_checkpoint(run, latest)
    if jax.process_index() == 0:
        files.write_json(run.workdir / "config.json", config.to_dict(run.experiment))
    return progress


def _begin(run: Run) -> Progress:
    settings = run.experiment.train
    pretrained, init_source = None, None
    if settings.init_from:
        labels = run.train_source.label_names
        pretrained, init_source = init_from.weights(settings, run.abstract.variables, labels)
    state = train_state.create_state(
        run.setup, run.video_shape, settings.seed, run.mesh, pretrained
    )
    return Progress(state, init_source=init_source)


def from_checkpoint(run: Run, step: int) -> Progress:
    """The progress of a run that goes on from one of its checkpoints; raises as `start` does."""
    meta = run.checkpoints.run_meta(step)
    same_run.check(run.experiment, run.provenance, meta, run.workdir)
    if step > run.total_steps:
        raise UserError(
            f"{run.workdir} has already trained {step} steps, more than {run.total_steps}"
        )
    return Progress(
        state=run.checkpoints.restore(step, run.abstract),
        step=step,
        window=meta["window"],
        seconds=meta["seconds"],
        resumed=True,
        init_source=meta.get("init_source"),
        eval_pending=meta["eval_pending"] and run.checkpoints.score(step) is None,
        best=run.checkpoints.best_score,
        **{name: meta.get(name, 0) for name in COUNTS},
    )
