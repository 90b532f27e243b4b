"""Stores the feature maps that a network makes of every clip, to train on them many times.

    python -m rstg_jax.features --config=FILE[:VARIANT] --config.train.init_from=WEIGHTS --out=DIR
        [--split=train|validation|test] [--dtype=float16|bfloat16|float32]
    python -m rstg_jax.features --workdir=RUN [--step=last|best|N] --out=DIR ...
    python -m rstg_jax.features --weights=kinetics/i3d|FILE.safetensors --out=DIR ...

The network is the one with which `train.py` would begin with the same flags, that of a run, or one
with published weights; ``--config.data.KEY=VALUE`` chooses the clips. Stored is what its head, or
its block at "final", reads: one map `[t h w c]` of each clip, in the view and without augmentation
as in testing. Without --split these are the training clips and those that training tests on.

DIR receives shards of ArrayRecord, and at the end SPLIT.json with config, weights and provenance of
the videos; see `rstg_jax.data.features`. The same command resumes after an interruption, with the
same bytes in the end. Maps of another network or of other clips are refused in DIR, which may be
gs://BUCKET/DIR. Then

    python train.py --config=configs/features.py --config.data.path=DIR --workdir=RUN

trains a head, with or without RSTG, on them.

Several machines: start the same command on each, with the flags of train.py. Each process makes
whole shards on its own devices, as one process with as many devices would.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence

import jax

from rstg_jax import cli, config, files, storage
from rstg_jax.data import features
from rstg_jax.inference import known_weights, stored_features
from rstg_jax.training import init_from, trained_model


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = cli.command_parser("rstg_jax.features", __doc__, whole=True)
    source = known_weights.add_source_flags(parser)
    source.add_argument("--config", metavar="FILE[:VARIANT]", help="as for train.py")
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write")
    parser.add_argument(
        "--split", help="train, validation, test; by default train and what training tests on"
    )
    parser.add_argument("--dtype", choices=[*features.DTYPES], default="float16")
    cli.add_process_flags(parser)
    parser.set_defaults(protocol=None)
    return parser


def chosen(
    args: argparse.Namespace, overrides: Mapping[str, str]
) -> tuple[trained_model.TrainedModel, str]:
    """The network that the flags choose, and where its weights are from."""
    if not args.config:
        model = known_weights.chosen(args, overrides)
        return model, args.weights or f"{args.workdir} step {model.step}"
    experiment = config.override(config.load(args.config), overrides)
    model = init_from.model(experiment, experiment.data.open("train").label_names)
    fresh = f"drawn with seed {experiment.train.seed}"
    if not experiment.train.init_from and "backbone" in model.variables["params"]:
        print(f"no --config.train.init_from: the weights are {fresh}", file=sys.stderr)
    return model, experiment.train.init_from or fresh


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    args, overrides = cli.parse(make_parser(), argv)
    cli.join_processes(args)
    cli.keep_compiled_programs()
    out = storage.path(args.out)
    if not storage.in_bucket(out):
        files.make_directory(out, f"--out={out}")
    model, weights_from = chosen(args, overrides)
    for split in (args.split,) if args.split else ("train", None):
        stored = stored_features.store(model, weights_from, out, split, args.dtype)
        shape = "x".join(map(str, stored.shape))
        if jax.process_index() == 0:
            print(f"{out}: {stored.examples} {stored.split} clips, {shape} {stored.dtype}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, ("--out",)))
