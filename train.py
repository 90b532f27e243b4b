"""Trains a model. The same command resumes a run that was stopped.

python train.py --config=configs/sync_mnist.py:demo --workdir=runs/demo
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rstg_jax import cli, config, processes

EPILOG = """\
Any key of the config can be changed:
  --config.train.batch_size=64 --config.optim.clip_norm=none --config.mesh.fsdp=4

Several machines: start the same command on each, with --coordinator, --num_processes and
--process_id, or with --cluster where JAX finds these itself (TPU pods, Slurm, Open MPI).

SIGINT (Ctrl-C), SIGTERM or SIGHUP finishes the step, saves and exits with status 0; a second
Ctrl-C stops at once. The workdir receives config.json, metrics.jsonl, TensorBoard events,
checkpoints/ and, at the end, result.json. If the run has finished, the command only evaluates it
again.
"""


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").strip(),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, metavar="FILE[:VARIANT]", help="what to train")
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        help="where the run is stored (default: runs/CONFIG/VARIANT); a run in it is resumed",
    )
    parser.add_argument(
        "--profile", metavar="FROM:TO", help="trace these updates into WORKDIR/profile"
    )
    cli.add_process_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Trains; returns the exit status."""
    parser = make_parser()
    args, overrides = cli.parse(parser, argv)
    profile = cli.number_range(parser, "--profile", args.profile) if args.profile else None
    # Late, because it loads JAX: --help and mistyped flags should answer at once.
    with cli.loading():
        from rstg_jax.training import scores, train_loop

    experiment = config.override(config.load(args.config), overrides)
    workdir = args.workdir
    if workdir is None:
        workdir = str(Path("runs", config.run_name(args.config)))
        print(f"no --workdir given: the run is in {workdir}", file=sys.stderr)
    cli.join_processes(args)
    cli.keep_compiled_programs()
    result = train_loop.train(experiment, workdir, profile=profile)
    if "stopped_at" in result:
        print(f"to resume: {processes.resume_command()}", file=sys.stderr)
    else:
        shares = [f"{name} {share}" for name, share in scores.accuracies(result).items()]
        print(f"test {', '.join([*shares, f'{workdir}/result.json'])}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
