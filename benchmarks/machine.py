"""Tools of the benchmarks: interleaved times, and the peak of the machine at hand."""

import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from rstg_jax.machine import num_cores

PEAK_SIZE = 2048


def best_seconds(runs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """The shortest time of each of several functions, which take turns.

    Other work on the machine can only slow a run down, and slows the neighbours down alike: times
    from one call of this function can be compared, others cannot. Each function first runs once
    outside the count.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            time.sleep(0.01)  # PyTorch's threads go on spinning for a while after its work
            start = time.perf_counter()
            jax.block_until_ready(run())
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: min(measured) for name, measured in times.items()}


def large_product(size: int = PEAK_SIZE, dtype: Any = jnp.float32) -> Callable[[], Any]:
    """A product of two square matrices of this size, to be timed beside what it is compared to.

    `2 * size**3` floating-point operations; the speed is called the machine's peak.
    """
    matrix = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    return lambda: product(matrix, matrix)


def peak_flops(seconds: float, size: int = PEAK_SIZE) -> float:
    """Floating-point operations a second of `large_product`."""
    return 2 * size**3 / seconds


def describe() -> dict[str, Any]:
    """The machine and its load, for the record beside every figure."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    device = jax.devices()[0]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": num_cores(),
        "device": device.device_kind,
        "jax": jax.__version__,
        "load_average_1_minute": round(os.getloadavg()[0], 1),
    }
