"""The cost of training on accelerators that are not at hand: an ESTIMATE on paper.

    python -m benchmarks.roofline [--batch=8] [--json=FILE]

Nothing is run. All products and convolutions of a training step in bfloat16 are read from its
jaxpr. A product cannot take less than its operations at the chip's published peak, nor less than
its operands and result need at the published bandwidth of the memory: the sum of the larger ones
is the bound. Elementwise work is taken to be fused into the products; nothing else is counted, and
no program reaches a roofline. What is expected is `REACHED` of the bound, our guess from what
well-tuned networks reach elsewhere. Data-parallel training also adds up the gradients of all chips,
in float32, around a ring; that is taken to overlap with nothing. Small models, such as the demos,
are bound by the start of their hundreds of kernels, which is not counted: they are left out.
"""

import os

# As on an accelerator: the program for a single CPU device is another one.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import train_step
from rstg_jax import cli, config, files
from rstg_jax.machine import CHIPS, Chip
from rstg_jax.models import flops as costs
from rstg_jax.training import train_state

REACHED = 0.5
CONFIGS = {
    "configs/sync_mnist.py:paper": 46,
    "configs/smt.py:c2d_rstg": 174,
    "configs/smt.py:i3d": 174,
    "configs/smt.py:map_res3_4": 174,
}  # and their numbers of labels


def training_step(name: str, classes: int, batch: int) -> tuple[list[costs.Product], int]:
    """Products of one training step of a batch on one chip, and the number of weights."""
    changes = {
        "model.backbone.lowering": "xla",
        "model.dtype": "bfloat16",
        "train.batch_size": str(batch),
    }
    experiment = config.override(config.load(name), changes)
    setup, mesh, traced = train_step.on_one_device(experiment, classes)
    state = train_state.abstract_state(setup, experiment.data.clip_shape, mesh)
    weights = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
    return list(costs.products(traced.jaxpr.jaxpr)), weights


def estimate(
    products: list[costs.Product], weights: int, batch: int, chip: Chip, chips: int = 1
) -> dict[str, Any]:
    """One row: a step of `batch` clips on each of `chips` chips."""
    computing = sum(2 * p.macs * p.times for p in products) / chip.flops
    bound = sum(p.times * max(2 * p.macs / chip.flops, p.bytes / chip.bandwidth) for p in products)
    summing = 2 * 4 * weights * (chips - 1) / chips / (chip.link / 2)
    seconds = bound / REACHED + summing
    return {
        "chips": f"{chips} x {chip.name}",
        "bound_ms": 1e3 * bound,
        "compute_share_of_bound": computing / bound,
        "expected_ms": 1e3 * seconds,
        "expected_utilisation": computing / seconds,
        "summing_gradients_ms": 1e3 * summing,
        "clips_per_second": batch * chips / seconds,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = cli.command_parser("benchmarks.roofline", __doc__)
    parser.add_argument("--batch", type=int, default=8, help="clips a chip")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    flags = parser.parse_args(argv)
    rows = []
    print(
        f"{'ESTIMATE for batches of ' + str(flags.batch) + ' a chip':<34}{'chips':<15}"
        f"{'GFLOP':>8}{'GB':>7}{'bound ms':>10}{'compute':>9}{'step ms':>9}{'util.':>7}"
        f"{'clips/s':>9}"
    )
    for name, classes in CONFIGS.items():
        products, weights = training_step(name, classes, flags.batch)
        flops = sum(2 * p.macs * p.times for p in products)
        moved = sum(p.bytes * p.times for p in products)
        for chip, chips in ((CHIPS[0], 1), (CHIPS[1], 1), (CHIPS[1], 16)):
            row = estimate(products, weights, flags.batch, chip, chips)
            rows.append(
                {"config": name, "batch": flags.batch, "flop": flops, "bytes": moved, **row}
            )
            print(
                f"{name:<34}{row['chips']:<15}{flops / 1e9:>8.0f}{moved / 1e9:>7.1f}"
                f"{row['bound_ms']:>10.2f}{row['compute_share_of_bound']:>9.0%}"
                f"{row['expected_ms']:>9.2f}{row['expected_utilisation']:>7.0%}"
                f"{row['clips_per_second']:>9.0f}",
                flush=True,
            )
    if flags.json:
        files.write_json(flags.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
