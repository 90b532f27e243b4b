"""Speed of one training step, against the matrix products that the machine can do.

    python -m benchmarks.train_step [--config=configs/sync_mnist.py:demo] [--config.any.key=value]

Floating-point operations are those of all matrix products and convolutions in the step's jaxpr
(scans counted with their length), nothing elementwise. The peak is a large product, timed in turns
with the step: on shared machines only the ratio means something. Videos are noise.
"""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import machine
from rstg_jax import cli, config, summary
from rstg_jax.models import classifier
from rstg_jax.models import flops as costs
from rstg_jax.training import sharding, steps, train_state
from rstg_jax.training.experiment import Experiment


def on_one_device(experiment: Experiment, classes: int) -> tuple[train_state.TrainSetup, Any, Any]:
    """The parts of a training step on one device.

    Args:
      experiment: with the size of the batch.
      classes: number of labels.

    Returns:
      The setup, the mesh, and the step traced with shapes only.
    """
    module = classifier.build(experiment.model, classes)
    setup = train_state.make_setup(
        module, experiment.loss, experiment.optimizer, summary.ANY_LENGTH
    )
    mesh = sharding.make_mesh(sharding.MeshConfig(data=1), jax.devices()[:1])
    state = train_state.abstract_state(setup, experiment.data.clip_shape, mesh)
    batch = summary.abstract_batch(experiment, classes, experiment.train.batch_size)
    step: Any = steps.jit_train_step(setup, mesh, state)  # `jit` adds `trace` to the function
    return setup, mesh, step.trace(state, batch)


def measure(
    experiment: Experiment, classes: int, peak: Callable[[], Any], peak_size: int, repeats: int
) -> dict[str, float]:
    """Compiles a step and times it in turns with a product.

    Args:
      experiment: with the size of the batch.
      classes: number of labels.
      peak: the product, of square matrices.
      peak_size: their rows.
      repeats: of both.
    """
    setup, mesh, traced = on_one_device(experiment, classes)
    clips = experiment.train.batch_size
    start = time.perf_counter()
    step = traced.lower().compile()
    seconds = time.perf_counter() - start
    flops = 2 * costs.macs(traced.jaxpr.jaxpr).total()
    batch = sharding.put_batch(
        random_batch(summary.abstract_batch(experiment, classes, clips)), mesh
    )
    state = train_state.create_state(setup, experiment.data.clip_shape, 0, mesh)

    def run() -> Any:
        nonlocal state
        state, sums = step(state, batch)
        return sums

    times = machine.best_seconds({"step": run, "peak": peak}, repeats)
    return {
        "step ms": 1e3 * times["step"],
        "clips/s": clips / times["step"],
        "GFLOP per clip": flops / clips / 1e9,
        "share of peak": flops / times["step"] / machine.peak_flops(times["peak"], peak_size),
        "temporary GB": step.memory_analysis().temp_size_in_bytes / 1e9,
        "compile s": seconds,
    }


def random_batch(shapes: dict[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
    """A batch of noise: what the arrays hold changes no time. Labels and classes are 0 or 1."""
    rng = np.random.default_rng(0)

    def fill(shape: jax.ShapeDtypeStruct) -> np.ndarray:
        largest = 256 if shape.dtype == jnp.uint8 else 2
        if jnp.issubdtype(shape.dtype, jnp.floating):
            return rng.uniform(size=shape.shape).astype(shape.dtype)
        return rng.integers(0, largest, shape.shape).astype(shape.dtype)

    batch = {key: fill(shape) for key, shape in shapes.items()}
    return batch | {"mask": np.ones_like(batch["mask"])}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = cli.command_parser("benchmarks.train_step", __doc__)
    parser.add_argument("--config", default="configs/sync_mnist.py:demo")
    parser.add_argument("--classes", type=int, default=46, help="number of labels")
    parser.add_argument("--repeats", type=int, default=20)
    flags, changes = cli.parse(parser, argv)
    experiment = config.override(config.load(flags.config), changes)
    peak = machine.large_product()
    row = measure(experiment, flags.classes, peak, machine.PEAK_SIZE, flags.repeats)
    print(f"{flags.config}, {experiment.train.batch_size} clips")
    for name, value in row.items():
        print(f"{name:<20}{value:10.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
