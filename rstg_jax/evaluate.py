"""Evaluates a checkpoint on every example of a split.

    python -m rstg_jax.evaluate --workdir=DIR [--split=test] [--step=last|best|N]
        [--protocol=center|dense|tsm|tsn|NxM] [--submission=FILE.csv]
    python -m rstg_jax.evaluate --weights=sync_mnist/demo|FILE.safetensors [--out=DIR] ...

The checkpoint alone gives model, weights, config and label names; only the data must be at hand
(``--config.data.KEY=VALUE`` if it lies elsewhere now). Protocols are those of
`rstg_jax.inference.protocols`. Prints a table and writes to DIR (or to --out, the only place for
--weights), NAME being SPLIT-STEP[-PROTOCOL], for --weights with their name in place of STEP:

    evaluation-NAME.json    the metrics that result.json has, metrics of every class, and all
                            confusions, the most frequent first (of videos with one label)
    evaluation-NAME.md      the last two as tables
    predictions-NAME.json   {id: [{"label", "probability"}, ...]}, the five best of every video;
                            the id of a SyncMNIST video is its index

A split without labels gives the predictions only. A submission has one line per video,
``id;1st;2nd;3rd;4th;5th`` without a header: class numbers in the order of the data set's own file
of labels, as in the baseline code of Something-Something's authors, or with
``--submission_labels=names`` the names as in its file of answers.

Several machines: start the same command on each, with the flags of train.py.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from rstg_jax import cli, files, storage
from rstg_jax.errors import UserError
from rstg_jax.inference import class_metrics, evaluation, known_weights


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = cli.command_parser("rstg_jax.evaluate", __doc__, whole=True)
    known_weights.add_flags(parser)
    parser.add_argument("--out", metavar="DIR", help="where to write the results")
    parser.add_argument(
        "--split", help="train, validation, test; by default the one that the run tested on"
    )
    parser.add_argument("--submission", type=Path, metavar="FILE.csv", help="also write this file")
    parser.add_argument("--submission_labels", choices=["numbers", "names"], default="numbers")
    cli.add_process_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = make_parser()
    args, overrides = cli.parse(parser, argv)
    cli.join_processes(args)
    cli.keep_compiled_programs()
    out = args.out or args.workdir
    out = out and storage.path(out)
    if args.out and not storage.in_bucket(out):
        files.make_directory(out, f"--out={out}")
    model = known_weights.chosen(args, overrides)
    numbers = None
    if args.submission:
        if model.data.multi_label:
            raise UserError("--submission: is for videos with one label each")
        if not args.submission.absolute().parent.is_dir():
            raise UserError(f"--submission={args.submission}: there is no such directory")
        if args.submission_labels == "numbers":
            numbers = evaluation.submission_numbers(model.data, args.split)
    result, predictions = evaluation.evaluate_checkpoint(model, args.split)
    if jax.process_index():
        return 0
    protocol = [model.data.protocol] if model.data.protocol else []
    name = args.weights or f"{args.step} checkpoint (step {model.step})"
    title = ", ".join([model.experiment.name, name, result["split"], *protocol])
    stem = "-".join([result["split"], Path(args.weights or args.step).stem, *protocol])
    print(evaluation.summary(result, title))
    written = []
    if out:
        written = evaluation.write(out, stem, title, result, predictions)
    if args.submission:
        names = model.label_names
        text = class_metrics.submission(predictions.ids, predictions.labels, names, numbers)
        files.write_text(args.submission, text)
        written.append(args.submission)
    for path in written:
        print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, ("--out",)))
