"""Trains a model; starting again in the same workdir resumes.

python train.py --config=configs/sync_mnist.py:demo --workdir=/tmp/demo
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

from rstg_jax import cli

EPILOG = """\
Any key of the config can be changed:
  --config.train.batch_size=64 --config.optim.clip_norm=none --config.mesh.fsdp=4

Several machines: start the same command on each, with --coordinator, --num_processes and
--process_id; or with --cluster where JAX can find these itself (TPU pods, Slurm, Open MPI).

SIGINT (Ctrl-C) or SIGTERM finishes the step, saves and exits with status 0; a second Ctrl-C
stops at once. The workdir receives config.json, metrics.jsonl, TensorBoard events, checkpoints/
and, at the end, result.json. A finished run starts its evaluation again and trains no more.
"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").strip(),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE[:VARIANT]", help="what to train")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="where everything goes")
    cli.add_process_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Reads flags, joins the processes, loads the config and trains."""
    parser = make_parser()
    args, rest = parser.parse_known_args(argv)
    # Imports come after the flags, so that --help and mistyped flags answer at once.
    from rstg_jax import config
    from rstg_jax.training import train_loop

    overrides = cli.config_overrides(rest, parser)
    experiment = config.override(config.load(args.config), overrides)
    cli.join_processes(args)
    cli.keep_compiled_programs()
    result = train_loop.train(experiment, args.workdir)
    if "stopped_at" in result:
        command = shlex.join([os.path.basename(sys.executable), *sys.argv])
        print(f"to resume: {command}", file=sys.stderr)
    else:
        print(
            f"test top1 {result['top1']:.2%}, top5 {result['top5']:.2%}, {args.workdir}/result.json"
        )
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
