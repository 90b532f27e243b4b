"""The host loop: feed, step, log, evaluate, save, stop cleanly.

Resuming is exact: weights, optimiser, random key, data position and the sums of the unfinished
logging window all come from the checkpoint, and log lines after it are removed.
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from rstg_jax import data, files, storage
from rstg_jax.errors import UserError
from rstg_jax.training import (
    checkpoint,
    eval_loop,
    loop_log,
    metrics,
    not_finite,
    profiling,
    resume,
    scores,
    sharding,
    steps,
)
from rstg_jax.training import run as run_lib
from rstg_jax.training.experiment import Experiment
from rstg_jax.training.logs import Clock, Console, MetricLog
from rstg_jax.training.loop_log import LoopContext
from rstg_jax.training.not_finite import NotFinite
from rstg_jax.training.run import Progress, Run
from rstg_jax.training.signals import StopSignal, lost_processes_told


def train(
    experiment: Experiment,
    workdir: str | storage.Path,
    until: int | None = None,
    profile: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Trains, or goes on training, in a working directory.

    Args:
      experiment: the configuration.
      workdir: receives config.json, metrics.jsonl, TensorBoard events, checkpoints/ and at the
        end result.json. If it holds a checkpoint of the same config the run is resumed.
      until: a step to stop after, as if a signal had come then; at once if it is over.
      profile: first and last update to trace, see `rstg_jax.training.profiling`.

    Returns:
      What result.json holds; or ``{"stopped_at": step}`` after SIGINT, SIGTERM, `until` or
      `train.max_seconds`, when the state is saved and the same call resumes.

    Raises:
      UserError: the config, data, devices or directory cannot be used; another run is in the
        directory; or the loss became NaN.
    """
    place = storage.path(workdir)
    if profile and storage.in_bucket(place):
        raise UserError(f"--profile: a trace is written locally, not to {place}")
    run = run_lib.set_up(experiment, place)
    stop_signal = StopSignal(experiment.train.max_seconds)
    with lost_processes_told(), run.checkpoints, stop_signal as stop:
        if profile and profile[0] > run.total_steps:
            asked = "--profile={}:{}".format(*profile)
            raise UserError(f"{asked}: there are {run.total_steps} updates")
        progress = resume.start(run)
        first = jax.process_index() == 0
        context = LoopContext(
            MetricLog(run.workdir, progress.step, first, retest=progress.eval_pending),
            Console(progress.step, run.total_steps, first),
            Clock(progress.seconds),
            stop,
            profiling.Profile(run.workdir, profile if first else None),
            until,
        )
        closed_at_the_end = (context.log, context.console, context.profile)
        with contextlib.ExitStack() as stack:
            for part in closed_at_the_end:
                stack.enter_context(contextlib.closing(part))
            loop_log.announce(run, progress, context)
            progress = fit(run, progress, context)
            return finish(run, progress, context)


def fit(run: Run, progress: Progress, context: LoopContext) -> Progress:
    """Makes the remaining updates, from an earlier checkpoint where `train.on_nan` says so."""
    while True:
        try:
            make_updates(run, progress, context)
        except NotFinite as error:
            progress = go_back(run, progress, context, error)
        else:
            return progress


def make_updates(run: Run, progress: Progress, context: LoopContext) -> None:
    """Makes the remaining updates, with logging, evaluation and checkpoints in between."""
    settings = run.experiment.train
    if progress.eval_pending:
        run_pending_eval(run, progress, context)
    batches = data.train_batches(
        run.train_source,
        batch_size=settings.batch_size,
        seed=settings.seed,
        start_step=progress.step + progress.batch_offset,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    stopping = context.stop.agreed() or as_asked(progress, context)
    with contextlib.closing(batches):
        while progress.step < run.total_steps and not stopping:
            update(run, progress, context, batches)
            due = due_now(run, progress.step)
            drain(run, progress, context, 0 if due else settings.max_queued_steps)
            stopping = context.stop.passed_on() or as_asked(progress, context)
            if stopping:
                drain(run, progress, context, 0)
            if "log" in due:
                run.checkpoints.check()  # not only when saving, which may be hours away
                loop_log.log_window(run, progress, context)
            with context.clock.excluded():
                if "test" in due:
                    test(run, progress, context)
                stopping = stopping or progress.eval_pending
                if stopping or wants_saving(due, progress):
                    run_lib.save(run, progress, context.clock.seconds())
    run.checkpoints.wait()
    run.checkpoints.check()


def due_now(run: Run, step: int) -> set[str]:
    """Tasks that are due after a step: any of log, test, save; all of them after the last."""
    settings = run.experiment.train
    every = {
        "log": settings.log_every,
        "test": settings.eval_every,
        "save": settings.checkpoint_every,
    }
    last = step == run.total_steps
    return {name for name, n in every.items() if last or (n and step % n == 0)}


def wants_saving(due: set[str], progress: Progress) -> bool:
    """Whether to save: at the interval, and after an evaluation that is a new best."""
    tested = progress.test_metrics
    is_best = tested is not None and tested[scores.headline(tested)] > progress.best
    return "save" in due or is_best


def update(
    run: Run, progress: Progress, context: LoopContext, batches: Iterator[dict[str, np.ndarray]]
) -> None:
    """Feeds one batch and dispatches one update, without waiting for it."""
    step = progress.step + 1
    with context.clock.waiting_for_data():
        batch = next(batches)
    with context.profile.update(step):
        fed = sharding.put_batch({key: batch[key] for key in run.fed}, run.mesh)
        rows = run.make_batch(fed) if run.make_batch else fed
        word = context.stop.carried(len(batch["mask"]))
        rows = {**rows, **sharding.put_batch(word, run.mesh)}
        if context.step is not None:
            progress.state, sums = context.step(progress.state, rows)
            context.clock.examples += run.experiment.train.batch_size
        else:
            with context.clock.excluded():
                context.step = compile_step(run, progress, context, rows)
                progress.state, sums = jax.block_until_ready(context.step(progress.state, rows))
    context.profile.after(step, progress.state)
    context.pending.append((step, sums))
    progress.step = step
    progress.test_metrics = None


def compile_step(
    run: Run, progress: Progress, context: LoopContext, batch: steps.Batch
) -> jax.stages.Compiled:
    """Compiles the training step, which takes minutes for a large model, and says what it costs."""
    context.console.say("compiling the training step ...")
    begin = time.monotonic()
    traced = run.train_step.trace(progress.state, batch)
    compiled = traced.lower().compile()
    kept = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    where = f"; the program is cached in {kept}" if kept else ""
    context.console.say(f"compiled in {time.monotonic() - begin:.1f} s{where}")
    context.cost = profiling.cost(traced, compiled)
    context.console.say(f"an update: {context.cost}")
    return compiled


def drain(run: Run, progress: Progress, context: LoopContext, allowed: int) -> None:
    """Fetches the sums of finished updates until only `allowed` are under way.

    Raises:
      NotFinite: an update was not finite, and is not left out; nothing of it has been saved.
    """
    while len(context.pending) > allowed:
        step, sums = context.pending.popleft()
        fetched = jax.device_get(sums)
        context.stop.fetched(fetched)
        try:
            not_finite.check(step, fetched)
        except NotFinite as error:
            if run.on_nan.action != "skip" or progress.skipped == run.on_nan.limit:
                raise
            progress.skipped += 1
            context.console.say(
                f"the {error.what} at step {step}; the update is left out "
                f"({progress.skipped} of {run.on_nan.limit})"
            )
        else:
            progress.window = metrics.add(progress.window, {**fetched, "updates": np.int32(1)})
        so_far = metrics.means(progress.window) if progress.window else None
        context.console.advance(so_far, context.clock.rate())


def go_back(run: Run, progress: Progress, context: LoopContext, error: NotFinite) -> Progress:
    """Goes back to the newest checkpoint and passes over the batches up to the failed one.

    Raises:
      UserError: `train.on_nan` does not say so, or not so often, or there is no checkpoint.
    """
    run.checkpoints.wait()
    latest = run.checkpoints.latest
    if run.on_nan.action != "rollback" or progress.rollbacks == run.on_nan.limit or latest is None:
        kept = "no checkpoint was saved before it" if latest is None else f"step {latest} is kept"
        counts = [
            f", after {progress.skipped} that were left out" if progress.skipped else "",
            f", after {progress.rollbacks} rollbacks" if progress.rollbacks else "",
        ]
        raise UserError(
            f"{error}{''.join(counts)}; {kept} in {run.checkpoints.path}. Lower "
            "optim.learning_rate, set optim.clip_norm, or look at the data"
        ) from error
    back = resume.from_checkpoint(run, latest)
    back.rollbacks = progress.rollbacks + 1
    back.batch_offset = progress.batch_offset + error.step - latest
    context.pending.clear()
    context.log.go_back(latest)
    context.console.go_back(latest)
    context.clock.reset()
    context.console.say(
        f"{error}; back to step {latest}, and on with the batches after the one that failed "
        f"({back.rollbacks} of {run.on_nan.limit})"
    )
    return back


def test(run: Run, progress: Progress, context: LoopContext) -> None:
    """Evaluates on the test split and logs it, unless a signal arrives meanwhile."""
    begin = time.monotonic()
    progress.test_metrics = eval_loop.evaluate(
        run.eval_step,
        progress.state.variables,
        run.test_source,
        run.mesh,
        run.eval_batch_size,
        # Processes that stopped at different batches would wait for each other for ever.
        context.stop.local if jax.process_count() == 1 else lambda: False,
    )
    progress.eval_pending = progress.test_metrics is None
    test_metrics = run_lib.scalars(progress.test_metrics)
    if test_metrics is not None:
        speed = test_metrics["examples"] / (time.monotonic() - begin)
        extra = {"examples_per_second": speed, "time": context.clock.seconds()}
        context.log.write(progress.step, "test", test_metrics | extra)
        context.console.test_line(progress.step, test_metrics)


def run_pending_eval(run: Run, progress: Progress, context: LoopContext) -> None:
    """Runs the evaluation that was due when the previous process was stopped."""
    test(run, progress, context)
    if progress.test_metrics is not None:
        score = checkpoint.score_of(progress.test_metrics)
        run.checkpoints.add_score(progress.step, score)
        progress.best = max(progress.best, *score.values())


def as_asked(progress: Progress, context: LoopContext) -> bool:
    """Whether the run has come to the step that its caller wants it to stop after."""
    return context.until is not None and progress.step >= context.until


def finish(run: Run, progress: Progress, context: LoopContext) -> dict[str, Any]:
    """Writes result.json from the evaluation of the last step, or reports the stop."""
    if (
        progress.step == run.total_steps
        and progress.test_metrics is None
        and not progress.eval_pending
    ):
        # The run was complete, and logged, before this process began.
        with contextlib.closing(MetricLog(run.workdir, progress.step, enabled=False)) as silent:
            test(run, progress, dataclasses.replace(context, log=silent))
    if progress.step < run.total_steps or progress.test_metrics is None:
        asked = "as asked" if as_asked(progress, context) else "signal to another process"
        why = context.stop.name or asked
        if progress.step:
            context.console.say(f"{why}: stopped after step {progress.step}, which is saved")
        else:
            context.console.say(f"{why}: stopped before the first step; there is nothing to save")
        return {"stopped_at": progress.step}
    result = run_lib.result(run, progress, context.clock.seconds())
    if jax.process_index() == 0:
        files.write_json(run.workdir / "result.json", result)
    return result
