"""Log lines of the training loop: devices and data at the start, then averages and speed."""

import collections
import dataclasses

import jax

from rstg_jax import data
from rstg_jax.training import metrics, optim, profiling, steps
from rstg_jax.training.logs import Clock, Console, MetricLog
from rstg_jax.training.run import Progress, Run
from rstg_jax.training.signals import StopSignal

NORMS = ("grad_norm", "param_norm")  # logged as averages over updates, the rest over examples


@dataclasses.dataclass
class LoopContext:
    """The state of the loop besides that of the run.

    Attributes:
      log: receives metrics.
      console: shows them.
      clock: of the run.
      stop: tells of signals.
      until: the step to stop after, or None.
      pending: numbers and sums of the updates that are still under way.
      profile: of some updates.
      step: the compiled step, once it is.
      cost: of an update, until it has been compared with what the devices can do.
    """

    log: MetricLog
    console: Console
    clock: Clock
    stop: StopSignal
    profile: profiling.Profile
    until: int | None = None
    pending: collections.deque[tuple[int, steps.Sums]] = dataclasses.field(
        default_factory=collections.deque
    )
    step: jax.stages.Compiled | None = None
    cost: profiling.Cost | None = None


def announce(run: Run, progress: Progress, context: LoopContext) -> None:
    """Prints model, devices, length and data of the run."""
    devices, classes = run.mesh.devices, len(run.train_source.label_names)
    context.console.say(
        f"{run.experiment.name}: {run.num_parameters:,} parameters, {classes} classes, "
        f"{devices.size} x {devices.flat[0].device_kind}, {run.total_steps} steps of "
        f"{run.experiment.train.batch_size} videos {list(run.video_shape)}, in {run.workdir}"
    )
    count = len(run.train_source)
    number = "videos without end" if count == data.ENDLESS else f"{count} videos"
    context.console.say(
        f"trains on {number} of {run.train_source.name}, "
        f"tests on all {len(run.test_source)} videos of {run.test_source.name}"
    )
    rate, settings = run.experiment.optimizer.learning_rate, run.experiment.optim
    if settings.reference_batch is not None:
        context.console.say(
            f"learning rate {rate:g}: optim.learning_rate={settings.learning_rate:g} is for "
            f"{settings.reference_batch} videos an update (optim.reference_batch), here they are "
            f"{run.experiment.train.batch_size}"
        )
    if progress.resumed:
        context.console.say(f"resuming after step {progress.step}")


def log_window(run: Run, progress: Progress, context: LoopContext) -> None:
    """Logs the averages over the current window and begins another."""
    if not progress.window:  # every update of it was left out
        context.clock.reset()
        return
    totals, settings = dict(progress.window), run.experiment
    updates = totals.pop("updates")
    norms = {name: totals.pop(name) / updates for name in NORMS}
    # The optimiser does not count what was left out.
    before = max(progress.step - progress.skipped - 1, 0)
    rate = optim.learning_rate(settings.optimizer, run.total_steps)(before)
    values = metrics.means(totals) | norms
    values |= {
        "learning_rate": float(rate),
        "examples": progress.step * settings.train.batch_size,
        "examples_per_second": context.clock.rate(),
        "waiting_for_data": context.clock.waiting(),
        "time": context.clock.seconds(),
    }
    context.log.write(progress.step, "train", values)
    left = (run.total_steps - progress.step) * settings.train.batch_size
    context.console.train_line(progress.step, values, left)
    say_utilisation(run, context, values["examples_per_second"])
    progress.window = {}
    context.clock.reset()


def say_utilisation(run: Run, context: LoopContext, examples_per_second: float) -> None:
    """Compares the speed of the first window with the peak of the devices, where that is known."""
    if context.cost is None or not examples_per_second:
        return
    updates_per_second = examples_per_second / run.experiment.train.batch_size
    if reached := context.cost.utilisation(updates_per_second, run.mesh.devices):
        context.console.say(f"{reached:.1%} of the devices' peak in bfloat16")
    context.cost = None
