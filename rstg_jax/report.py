"""Writes one self-contained page about a finished run: metrics, curves, confusion, test videos.

    python -m rstg_jax.report --workdir=DIR [--examples=12] [--picture=FILE.png]

writes `DIR/report.html` (no other file, no network) and, on request, a still picture for other
documents. The metrics come from `result.json` and `metrics.jsonl`. The examples are the first ones
of the test split, never selected by result, predicted with the checkpoint of the last step, which
`result.json` describes as well. Clips are shown in one view, the centred one, with at most 16
frames; stored feature maps are not shown. `--config.data.KEY=VALUE` says where the data is if it
has moved.
"""

import sys
from collections.abc import Sequence

from rstg_jax import cli, config, files, storage
from rstg_jax.errors import UserError
from rstg_jax.training import integrity
from rstg_jax.training.experiment import Experiment
from rstg_jax.viz import html_report, panels
from rstg_jax.viz.examples import load_examples


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = cli.command_parser("rstg_jax.report", __doc__)
    parser.add_argument("--workdir", required=True, help="directory of the training run")
    parser.add_argument("--examples", type=int, default=12, help="test videos shown (12)")
    parser.add_argument("--picture", metavar="FILE.png", help="also draw the first three of them")
    args, overrides = cli.parse(parser, argv)
    if args.examples < 0:
        parser.error(f"--examples={args.examples} cannot be negative")
    record = html_report.read_record(args.workdir)
    experiment = config.from_dict(Experiment, record.config)
    if args.picture and not experiment.data.pictures:
        raise UserError(f"--picture={args.picture}: the data of this run are no pictures")
    workdir, last = storage.path(args.workdir), record.result["steps"]
    newest = max(integrity.steps(workdir / "checkpoints"), default=last)
    if newest > last:
        raise UserError(
            f"{workdir}: its result is that of step {last}, but training went on to step {newest}: "
            f"finish it first (train.py --workdir={workdir})"
        )
    count = args.examples if experiment.data.pictures else 0
    examples, graph = load_examples(args.workdir, str(last), count, overrides)
    if args.picture:
        panels.write_picture(args.picture, examples, graph, record.label_names)
        print(f"picture: {args.picture}")
    description = experiment.data.describe(record.label_names, record.result["data"])
    path = workdir / "report.html"
    files.write_text(path, html_report.render(record, examples, graph, description))
    print(f"report: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
