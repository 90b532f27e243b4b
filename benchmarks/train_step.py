"""Speed of one training step, against the matrix products that the machine can do.

    python -m benchmarks.train_step [--config=configs/sync_mnist.py:demo] [--config.any.key=value]

Floating-point operations are those of all matrix products and convolutions in the step's jaxpr
(scans counted with their length), nothing elementwise. The peak is a 2048x2048 float32 product,
timed in turns with the step: on shared machines only the ratio means something.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import machine
from rstg_jax import cli, config
from rstg_jax.models import classifier
from rstg_jax.models import flops as costs
from rstg_jax.training import sharding, steps


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", default="configs/sync_mnist.py:demo")
    parser.add_argument("--repeats", type=int, default=20)
    flags, changes = cli.parse(parser, argv)
    experiment = config.override(config.load(flags.config), changes)

    source = experiment.data.open("train")
    module = classifier.build(experiment.model, len(source.label_names))
    setup = steps.make_setup(module, experiment.loss, experiment.optim, 1000)
    mesh = sharding.make_mesh(experiment.mesh)
    size = experiment.train.batch_size
    batch = source.batch(np.arange(size)) | {"mask": np.ones(size, np.float32)}
    shape = batch["video"].shape[1:]
    put = sharding.put_batch({key: batch[key] for key in experiment.loss.batch_keys}, mesh)
    abstract = steps.abstract_state(setup, shape, mesh)
    state = steps.create_state(setup, shape, 0, mesh)
    traced = steps.jit_train_step(setup, mesh, abstract).trace(state, put)
    flops = 2 * costs.macs(traced.jaxpr.jaxpr).total()
    start = time.perf_counter()
    step = traced.lower().compile()
    compile_seconds = time.perf_counter() - start

    def run() -> Any:
        nonlocal state
        state, sums = step(state, put)
        return sums

    times = machine.best_seconds({"step": run, "peak": machine.large_product()}, flags.repeats)
    elapsed, peak = times["step"], machine.peak_flops(times["peak"])
    rows = [
        ("config", flags.config),
        ("compilation", f"{compile_seconds:.1f} s"),
        ("temporary memory", f"{step.memory_analysis().temp_size_in_bytes / 1e6:.0f} MB"),
        ("step", f"{elapsed * 1e3:.0f} ms for {size} videos"),
        ("speed", f"{size / elapsed:.0f} videos/s"),
        ("products", f"{flops / size / 1e9:.3f} GFLOP a video"),
        ("rate", f"{flops / elapsed / 1e9:.1f} GFLOP/s"),
        ("peak (2048 x 2048 product)", f"{peak / 1e9:.1f} GFLOP/s"),
        ("share of the peak", f"{flops / elapsed / peak:.0%}"),
    ]
    for name, value in rows:
        print(f"{name:<28}{value}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
