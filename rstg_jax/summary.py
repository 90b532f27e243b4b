"""Prints the cost of a configuration without running it: parameters, MACs, memory.

    python -m rstg_jax.summary --config=configs/sync_mnist.py:paper --depth=3

MACs (multiply-accumulates) count all products and convolutions of the forward pass of one clip.
Activations are the arrays that a training step keeps per clip for the backward pass, before XLA
fuses or recomputes any: an upper estimate. Gradients and temporary arrays come on top: compiled for
a CPU, steps of configs/sync_mnist.py's `demo`, `official` and `tiny` needed 1.1 to 1.4 times as
much. --json also lists the path and shape of every weight. The command needs neither the data nor
the memory of the model.
"""

import functools
import json
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import humanize
import jax
import jax.numpy as jnp
from flax import traverse_util

from rstg_jax import cli, config
from rstg_jax.models import classifier, flops
from rstg_jax.training import steps, train_state
from rstg_jax.training.experiment import Experiment

Path = tuple[str, ...]
FIGURES = ("parameters", "macs", "activation_bytes")
ANY_LENGTH = 1000  # of training: no count depends on it


def summarise(experiment: Experiment, num_classes: int | None = None) -> dict[str, Any]:
    """Computes everything that `main` prints.

    Args:
      experiment: The experiment.
      num_classes: Number of labels; needed only if the data set is not available.

    Returns:
      `modules`: path such as "rstg_final/time" -> `FIGURES`, inner modules included, "" for all;
      `arrays`: path of each parameter -> shape; `fixed_bytes`: what a training step keeps
      whatever the batch size (weights in the compute dtype); `state_bytes`: weights, optimiser,
      running statistics and averages; and fields that identify the model.
    """
    shape, classes = experiment.data.clip_shape, num_classes or experiment.data.num_classes
    module = classifier.build(experiment.model, classes)
    setup = train_state.make_setup(module, experiment.loss, experiment.optim, ANY_LENGTH)
    state = jax.eval_shape(
        functools.partial(train_state.init_state, setup, shape), jax.ShapeDtypeStruct((), jnp.int32)
    )
    arrays = {
        path: list(leaf.shape) for path, leaf in traverse_util.flatten_dict(state.params).items()
    }
    parameters = {path: math.prod(size) for path, size in arrays.items()}
    known = {path[:end] for path in arrays for end in range(len(path))}

    forward = jax.make_jaxpr(functools.partial(module.apply, train=False))(
        state.variables, **steps.inputs(abstract_batch(experiment, classes, 1))
    )
    macs = by_module(flops.macs(forward.jaxpr), known)
    one, two = (by_module(kept(setup, state, experiment, classes, size), known) for size in (1, 2))
    clip = {path: two[path] - one[path] for path in two}
    return {
        "name": experiment.name,
        "clip": list(shape),
        "classes": classes,
        "dtype": experiment.model.dtype,
        "batch_size": experiment.train.batch_size,
        "modules": {
            "/".join(path): dict(zip(FIGURES, row, strict=True))
            for path, row in inclusive(known, macs, parameters, macs, clip).items()
        },
        "arrays": {"/".join(path): size for path, size in arrays.items()},
        "fixed_bytes": one.total() - sum(clip.values()),
        "state_bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)),
    }


def kept(
    setup: train_state.TrainSetup, state: Any, experiment: Experiment, classes: int, size: int
) -> Counter[str]:
    """Counts the bytes kept for the gradient of a batch of `size` clips, by name stack."""

    def pullback(params: Any, state: Any, batch: steps.Batch) -> Any:
        loss = functools.partial(
            steps.loss_fn, setup=setup, state=state, batch=batch, gather=steps.as_they_are
        )
        return jax.vjp(loss, params, has_aux=True)[1]

    batch = abstract_batch(experiment, classes, size)
    return flops.result_bytes(jax.make_jaxpr(pullback)(state.params, state, batch).jaxpr)


def abstract_batch(
    experiment: Experiment, classes: int, size: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the batch of a training step."""
    data = experiment.data
    frames, objects = data.clip_shape[0], data.num_objects
    shapes = {
        "label": ((classes,) if data.multi_label else (), jnp.int32),
        "mask": ((), jnp.float32),
        "frame_label": ((frames,), jnp.int32),
        "object_class": ((objects,), jnp.int32),
        "object_center": ((frames, objects, 2), jnp.float32),
        "object_in_pair": ((objects,), jnp.bool_),
    }
    return steps.abstract_inputs(data, data.clip_shape, size) | {
        key: jax.ShapeDtypeStruct((size, *shape), dtype)
        for key, (shape, dtype) in shapes.items()
        if key in experiment.batch_keys
    }


def by_module(counts: Mapping[str, int], known: set[Path]) -> Counter[Path]:
    """Sums counts by name stack over the modules with parameters.

    A module may be called inside a module that does not own it, as blocks inside a backbone are. A
    name therefore refers to the nearest enclosing module that owns a module of this name.
    """
    total: Counter[Path] = Counter()
    for stack, number in counts.items():
        path: Path = ()
        for part in stack.split("/"):
            owners = (path[:end] for end in range(len(path), -1, -1))
            path = next(((*owner, part) for owner in owners if (*owner, part) in known), path)
        total[path] += number
    return total


def inclusive(
    known: set[Path], order: Mapping[Path, int], *figures: Mapping[Path, int]
) -> dict[Path, list[int]]:
    """Counts of each module including its submodules; parents first, then in the order given."""
    first = {
        path[:end]: number
        for number, path in reversed(list(enumerate(order)))
        for end in range(len(path) + 1)
    }

    def place(path: Path) -> list[tuple[int, str]]:
        ends = range(1, len(path) + 1)
        return [(first.get(path[:end], len(order)), path[end - 1]) for end in ends]

    return {
        path: [sum(n for p, n in figure.items() if p[: len(path)] == path) for figure in figures]
        for path in sorted(known, key=place)
    }


def table(summary: Mapping[str, Any], depth: int) -> str:
    """Renders modules and their arrays down to `depth`."""
    rows = [("", "parameters", "MACs per clip", "activations per clip")]
    modules = summary["modules"]
    for path, figures in modules.items():
        level = path.count("/") + 1 if path else 0
        if level > depth:
            continue
        name = "  " * (level - 1) + path.rpartition("/")[2] if path else "all"
        cells = (number(figures["macs"]), number(figures["activation_bytes"], "B"))
        rows.append((name, f"{figures['parameters']:,}", *cells))
        if level < depth:
            rows += [
                ("  " * level + array.rpartition("/")[2], f"{math.prod(shape):,}", f"{shape}", "")
                for array, shape in summary["arrays"].items()
                if array.rpartition("/")[0] == path
            ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            f"{cell:{'<' if column == 0 else '>'}{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def number(value: float, unit: str = "") -> str:
    """Formats a number with three digits and an SI prefix; an empty text for 0."""
    if not value:
        return ""
    return humanize.metric(value, unit) if value >= 1000 else f"{value:.0f} {unit}".rstrip()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = cli.command_parser("rstg_jax.summary", __doc__, whole=True)
    parser.add_argument("--config", required=True, metavar="FILE[:VARIANT]", help="configuration")
    parser.add_argument("--depth", type=int, default=2, metavar="N", help="levels (default 2)")
    parser.add_argument("--classes", type=int, metavar="N", help="labels, if the data are missing")
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead")
    args, overrides = cli.parse(parser, argv)
    if args.depth < 0 or (args.classes is not None and args.classes < 1):
        parser.error("--depth is at least 0, --classes at least 1")
    experiment = config.override(config.load(args.config), overrides)
    summary = summarise(experiment, args.classes)
    if args.json:
        print(json.dumps(summary, indent=1))
        return 0
    size, parts = summary["batch_size"], experiment.train.accumulate
    clips = -(-size // parts)  # whose activations are there at the same time
    batch = clips * summary["modules"][""]["activation_bytes"] + summary["fixed_bytes"]
    cut = f" in {parts} parts, one after the other" if parts > 1 else ""
    print(
        f"{summary['name']}: clip {summary['clip']}, {summary['classes']} classes, "
        f"{summary['dtype']}\n\n{table(summary, args.depth)}\n\n"
        f"Training with batches of {size}{cut}, all devices of the mesh together: "
        f"{number(summary['state_bytes'], 'B')} of weights, optimiser and averages;\n"
        f"{number(batch, 'B')} of activations for the backward pass, an upper estimate (before XLA "
        "fuses or recomputes any);\ngradients and temporary arrays come on top."
    )
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
