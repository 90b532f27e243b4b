"""Evaluates a checkpoint on every example of a split.

    python -m rstg_jax.evaluate --workdir=DIR [--split=test] [--step=last|best|N]

The checkpoint alone gives model, weights, config and label names; only the data must be at hand
(``--config.data.KEY=VALUE`` if it lies elsewhere now). Prints a table and writes
DIR/evaluation-SPLIT-STEP.json, the same figures as the run's own result.json.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rstg_jax import checkpoint, cli, config, data, metrics, sharding, steps
from rstg_jax.errors import UserError


def evaluate(
    eval_step: Callable[[Mapping[str, Any], steps.Batch], steps.Sums],
    variables: Mapping[str, Any],
    source: data.Source,
    mesh: Mesh,
    batch_size: int,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """Evaluates on all examples of a source, each exactly once.

    Args:
      eval_step: from `steps.jit_eval_step`.
      variables: the model's.
      source: the split.
      mesh: where to compute.
      batch_size: global; the last batch is padded and masked.
      stop: asked between batches; when it says yes the evaluation is given up.

    Returns:
      ``loss``, ``top1``, ``top5`` (floats), ``examples`` (int) and ``confusion``
      (int64 [true predicted]); None if given up.
    """
    totals: dict[str, Any] = {}
    count = (jax.process_index(), jax.process_count())
    batches = data.eval_batches(
        source, batch_size=batch_size, process_index=count[0], process_count=count[1]
    )
    pending: steps.Sums | None = None
    for batch in batches:
        if stop():
            return None
        put = sharding.put_batch({k: batch[k] for k in steps.EVAL_KEYS}, mesh)
        sums = eval_step(variables, put)
        if pending is not None:  # one batch behind, so that host and device overlap
            totals = metrics.add(totals, jax.device_get(pending))
        pending = sums
    assert pending is not None  # `eval_batches` refuses an empty source
    totals = metrics.add(totals, jax.device_get(pending))
    figures = metrics.means(totals)
    return figures | {"examples": totals["count"], "confusion": totals["confusion"]}


def open_split(experiment: Any, split: str) -> data.Source:
    """Opens a split and refuses an empty one."""
    source = data.open_source(experiment.data, split)
    if len(source) == 0:
        raise UserError(f"the {split} split of {source.name} is empty")
    return source


def provenance(source: data.Source) -> dict[str, Any]:
    """What a source is and where its videos come from, for the record."""
    return {"name": source.name, **source.provenance}


def evaluate_checkpoint(loaded: checkpoint.Loaded, split: str) -> dict[str, Any]:
    """Evaluates a loaded checkpoint; returns what the file holds."""
    source = open_split(loaded.experiment, split)
    if tuple(source.label_names) != loaded.label_names:
        raise UserError(
            f"{source.name} has {len(source.label_names)} labels, {source.label_names[:3]}...; "
            f"the checkpoint has {len(loaded.label_names)}, {loaded.label_names[:3]}..."
        )
    batch_size = eval_batch_size(loaded.experiment.train.for_evaluation, loaded.mesh)
    eval_step = steps.jit_eval_step(loaded.module, loaded.mesh, loaded.abstract)
    figures = evaluate(eval_step, loaded.variables, source, loaded.mesh, batch_size)
    assert figures is not None
    return checkpoint.plain(
        {
            "split": split,
            "step": loaded.step,
            **figures,
            "data": {split: provenance(source)},
            "config_hash": config.config_hash(loaded.experiment),
            "label_names": loaded.label_names,
        }
    )


def eval_batch_size(wanted: int, mesh: Mesh) -> int:
    """Rounds up to what the devices divide: padding is masked, so the figures do not change."""
    pieces = int(np.lcm(sharding.batch_devices(mesh), jax.process_count()))
    return -(-wanted // pieces) * pieces


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m rstg_jax.evaluate", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--workdir", required=True, help="directory of the training run")
    parser.add_argument("--split", default="test", choices=["test", "train"])
    parser.add_argument("--step", default="last", help="last (default), best, or a number")
    args, rest = parser.parse_known_args(argv)
    loaded = checkpoint.load(args.workdir, args.step, cli.config_overrides(rest, parser))
    result = evaluate_checkpoint(loaded, args.split)
    path = Path(args.workdir) / f"evaluation-{args.split}-{args.step}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{loaded.experiment.name}, {args.step} checkpoint (step {loaded.step}), {args.split}")
    for name in ("examples", "loss", "top1", "top5"):
        value = result[name]
        print(
            f"  {name:<9}{value:>10.2%}" if name.startswith("top") else f"  {name:<9}{value:>10.5g}"
        )
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
