"""Evaluates a checkpoint on every example of a split.

    python -m rstg_jax.evaluate --workdir=DIR [--split=test] [--step=last|best|N]
        [--protocol=center|dense|NxM] [--submission=FILE.csv]

The checkpoint alone gives model, weights, config and label names; only the data must be at hand
(``--config.data.KEY=VALUE`` if it lies elsewhere now). Splits and protocols are those of
`rstg_jax.inference.protocols`. Prints a table and writes to DIR, NAME being SPLIT-STEP[-PROTOCOL]:

    evaluation-NAME.json    the same figures as the run's own result.json; figures of every class;
                            all confusions, the commonest first
    evaluation-NAME.md      the last two as tables
    predictions-NAME.json   {id: [{"label", "probability"}, ...]}, the five best of every video;
                            a SyncMNIST video has its index for an id

A split without labels gives the predictions only. A submission has a line a video,
``id;1st;2nd;3rd;4th;5th`` without a header: class numbers in the order of the data set's own file
of labels, which is what the baseline code of Something-Something's authors writes, or with
``--submission_labels=names`` the names as in its file of answers.

Several machines: start the same command on each, with the flags of train.py.
"""

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rstg_jax import cli, config, data
from rstg_jax.errors import UserError
from rstg_jax.inference import class_metrics, protocols
from rstg_jax.training import checkpoint, eval_loop, metrics, sharding, steps
from rstg_jax.training.eval_loop import EvalStep
from rstg_jax.training.experiment import Experiment

PRINTED = 10  # confusions


def evaluate(
    eval_step: EvalStep,
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
    with contextlib.closing(eval_loop.run(eval_step, variables, source, mesh, batch_size)) as parts:
        for part in parts:
            if stop():
                return None
            totals = metrics.add(totals, part.sums)
    return _figures(totals)


def evaluate_checkpoint(
    loaded: checkpoint.Loaded, split: str | None = None
) -> tuple[dict[str, Any], eval_loop.Predictions]:
    """Evaluates a loaded checkpoint on a split by its own name, see `protocols.with_split`.

    Returns:
      What evaluation-NAME.json holds, without figures if the split has no labels; and predictions.
    """
    source, split = open_named(loaded.experiment, split)
    if tuple(source.label_names) != loaded.label_names:
        raise UserError(
            f"{source.name} has {len(source.label_names)} labels, {source.label_names[:3]}...; "
            f"the checkpoint has {len(loaded.label_names)}, {loaded.label_names[:3]}..."
        )
    data.refuse_endless(source)
    protocols.check_fits(loaded)
    max_clips = loaded.experiment.train.for_evaluation
    eval_step = steps.jit_eval_step(loaded.module, loaded.mesh, loaded.abstract, max_clips)
    batch_size = eval_batch_size(max_clips, loaded.mesh, protocols.views(loaded.experiment.data))
    totals: dict[str, Any] = {}
    parts = []
    for part in eval_loop.run(eval_step, loaded.variables, source, loaded.mesh, batch_size):
        totals = metrics.add(totals, part.sums)
        parts.append(part._replace(sums={}))
    result = {
        "split": split,
        "step": loaded.step,
        "protocol": protocols.name(loaded.experiment.data) or None,
        "examples": totals["count"],
        "data": {split: provenance(source)},
        "config_hash": config.config_hash(loaded.experiment),
        "label_names": loaded.label_names,
    }
    if labelled(source):
        confusion = totals["confusion"]
        result |= _figures(totals)
        result["classes"] = class_metrics.per_class(confusion, loaded.label_names)
        result["confusions"] = class_metrics.confusions(confusion, loaded.label_names)
    return checkpoint.plain(result), eval_loop.collect(parts, len(source))


def _figures(totals: Mapping[str, Any]) -> dict[str, Any]:
    """Divides the sums over a whole split."""
    return metrics.means(totals) | {
        "examples": totals["count"],
        "confusion": totals["confusion"],
    }


def labelled(source: data.Source) -> bool:
    """Whether the labels of a split are known."""
    return getattr(source, "labelled", True)


def open_split(experiment: Experiment, split: str) -> data.Source:
    """Opens a split and refuses an empty one."""
    source = data.open_source(experiment.data, split)
    if len(source) == 0:
        raise UserError(f"the {split} split of {source.name} is empty")
    return source


def open_named(experiment: Experiment, split: str | None) -> tuple[data.Source, str]:
    """Opens a split by the name that its data set gives it; returns also that name."""
    chosen, part, name = protocols.with_split(experiment.data, split)
    return open_split(dataclasses.replace(experiment, data=chosen), part), name


def provenance(source: data.Source) -> dict[str, Any]:
    """What a source is and where its videos come from, for the record."""
    return {"name": source.name, **source.provenance}


def eval_batch_size(wanted: int, mesh: Mesh, views: int = 1) -> int:
    """Videos of an evaluation batch, such that all their views are about as many as wanted.

    Rounded up to what the devices divide: padding is masked, so the figures do not change.
    """
    pieces = int(np.lcm(sharding.batch_devices(mesh), jax.process_count()))
    return -(-wanted // (views * pieces)) * pieces


def submission_numbers(loaded: checkpoint.Loaded, split: str | None) -> dict[str, int]:
    """Number of each label in the order of the data set's own file."""
    chosen, part, _ = protocols.with_split(loaded.experiment.data, split)
    if isinstance(chosen, data.SomethingSomethingConfig):
        chosen = dataclasses.replace(chosen, label_order="file")
    names = data.open_source(chosen, part).label_names
    return {name: number for number, name in enumerate(names)}


def as_records(
    labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str]
) -> list[dict[str, Any]]:
    """One video's best classes, `[k]` each, as ``{"label": name, "probability": p}``."""
    pairs = zip(labels, probabilities, strict=True)
    return [{"label": names[label], "probability": float(p)} for label, p in pairs]


def write(path: Path, text: str) -> None:
    """Writes a file and says so.

    Raises:
      UserError: it cannot be written.
    """
    try:
        path.write_text(text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    print(f"written to {path}")


def print_figures(result: Mapping[str, Any]) -> None:
    """Prints the figures of a split and the commonest confusions."""
    for name in ("examples", "loss", "top1", "top5"):
        value = result[name]
        text = f"{value:>10.2%}" if name.startswith("top") else f"{value:>10.5g}"
        print(f"  {name:<9}{text}")
    if result["confusions"]:
        print("  most frequent mistakes:")
    for pair in result["confusions"][:PRINTED]:
        print(f"  {pair['count']:>6}  {pair['true']} -> {pair['predicted']}")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m rstg_jax.evaluate",
        description=(__doc__ or "").strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, help="directory of the training run")
    parser.add_argument("--split", help="train, validation, test; what the run tested on if absent")
    parser.add_argument("--step", default="last", help="last (default), best, or a number")
    parser.add_argument("--protocol", help="center, dense or NxM; the config's own if absent")
    parser.add_argument("--submission", type=Path, metavar="FILE.csv", help="also write this")
    parser.add_argument("--submission_labels", choices=["numbers", "names"], default="numbers")
    cli.add_process_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = make_parser()
    args, overrides = cli.parse(parser, argv)
    cli.join_processes(args)
    cli.keep_compiled_programs()
    loaded = checkpoint.load(args.workdir, args.step, overrides)
    loaded = loaded.with_data(protocols.with_protocol(loaded.experiment.data, args.protocol))
    numbers = None
    if args.submission:
        if not args.submission.absolute().parent.is_dir():
            raise UserError(f"--submission={args.submission}: there is no such directory")
        if args.submission_labels == "numbers":
            numbers = submission_numbers(loaded, args.split)
    result, predictions = evaluate_checkpoint(loaded, args.split)
    if jax.process_index() == 0:
        report(args, loaded, result, predictions, numbers)
    return 0


def report(
    args: argparse.Namespace,
    loaded: checkpoint.Loaded,
    result: Mapping[str, Any],
    predictions: eval_loop.Predictions,
    numbers: Mapping[str, int] | None,
) -> None:
    """Prints the figures and writes the files."""
    names, split = loaded.label_names, result["split"]
    protocol = protocols.name(loaded.experiment.data)
    title = f"{loaded.experiment.name}, {args.step} checkpoint (step {loaded.step}), {split}"
    title += f", {protocol}" if protocol else ""
    print(title)
    stem = f"{split}-{args.step}" + (f"-{protocol}" if protocol else "")
    if "top1" in result:
        print_figures(result)
        base = Path(args.workdir) / f"evaluation-{stem}"
        write(base.with_suffix(".json"), json.dumps(result, indent=1) + "\n")
        write(base.with_suffix(".md"), class_metrics.markdown(result, title))
    else:
        print(f"  {result['examples']} videos without labels: predictions only")
    records = {
        example: as_records(labels, probabilities, names)
        for example, labels, probabilities in zip(*predictions, strict=True)
    }
    path = Path(args.workdir) / f"predictions-{stem}.json"
    write(path, json.dumps(records, indent=1) + "\n")
    if args.submission:
        text = class_metrics.submission(predictions.ids, predictions.labels, names, numbers)
        write(args.submission, text)


if __name__ == "__main__":
    sys.exit(cli.run(main))
