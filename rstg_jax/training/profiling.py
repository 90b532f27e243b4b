"""The cost of an update, and a trace of chosen updates."""

import logging
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax

from rstg_jax import machine, storage
from rstg_jax.models import flops

FOLDER = "profile"  # in the working directory

_log = logging.getLogger(__name__)


class Cost(NamedTuple):
    """The cost of one update.

    Attributes:
      flops: floating-point operations of its products and convolutions, on all devices.
      bytes: memory of its arguments, results and temporary arrays on each device.
    """

    flops: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.flops / 1e9:.3g} GFLOP, {self.bytes / 1e6:.3g} MB on each device"

    def utilisation(self, updates_per_second: float, devices: Any) -> float | None:
        """The reached share of the devices' peak in bfloat16; None if it is not known."""
        chip = machine.chip(devices.flat[0].device_kind)
        if chip is None:
            return None
        return self.flops * updates_per_second / (chip.flops * devices.size)


def cost(traced: jax.stages.Traced, compiled: jax.stages.Compiled) -> Cost:
    """Reads the cost of a program.

    Operations are those of its jaxpr: XLA's own count has the body of a scan once.
    """
    operations = sum(2 * p.macs * p.times for p in flops.products(traced.jaxpr.jaxpr))
    memory: Any = compiled.memory_analysis()
    used = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return Cost(operations, used + memory.temp_size_in_bytes - memory.alias_size_in_bytes)


class Profile:
    """Traces the updates of a range into ``WORKDIR/profile``."""

    def __init__(self, workdir: storage.Path, updates: tuple[int, int] | None):
        self._directory = workdir / FOLDER
        self._updates = range(updates[0], updates[1] + 1) if updates else range(0)
        self._tracing = False

    def update(self, number: int) -> AbstractContextManager[object]:
        """The context of an update: names it in the trace, which the first one begins."""
        if number in self._updates and not self._tracing:
            jax.profiler.start_trace(self._directory)
            self._tracing = True
        return jax.profiler.StepTraceAnnotation("train", step_num=number)

    def after(self, number: int, state: Any) -> None:
        """Ends the trace after its last update, once its `state` is computed."""
        if self._tracing and number == self._updates[-1]:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Ends the trace if it is still going on."""
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False
            self._updates = range(0)
            _log.info("the profile is in %s", self._directory)
