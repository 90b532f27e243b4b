"""Writes the weights of a run as one .safetensors file, with its config and label names.

    python -m rstg_jax.convert.export --workdir=RUN --out=FILE.safetensors [--step=best] [--half]

The file is all that is needed to use or to go on training the model:

    python -m rstg_jax.predict --weights=FILE.safetensors clip.mp4
    python train.py --config=... --config.train.init_from=FILE.safetensors
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from rstg_jax import cli
from rstg_jax.errors import UserError
from rstg_jax.training.experiment import Experiment


def portable(experiment: Experiment) -> Experiment:
    """The experiment without places on the machine where it ran."""
    data = experiment.data
    places = {f.name: f.default for f in dataclasses.fields(data) if f.name in data.may_differ}
    train = dataclasses.replace(experiment.train, init_from="", init_fresh=(), init_ignore=())
    return dataclasses.replace(experiment, data=dataclasses.replace(data, **places), train=train)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m rstg_jax.convert.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, help="directory of the training run")
    parser.add_argument("--step", default="last", help="last (default), best, or a number")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.safetensors")
    parser.add_argument("--half", action="store_true", help="store float16, half the size")
    args = parser.parse_args(argv)
    from rstg_jax.training import checkpoint, weights_file  # they load JAX
    from rstg_jax.training.weights import Weights

    if args.out.suffix != weights_file.SUFFIX:
        raise UserError(f"--out={args.out} must end in {weights_file.SUFFIX}")
    model = checkpoint.load(args.workdir, args.step)
    source = {"run": model.experiment.name, "step": model.step, "test": model.meta.get("test")}
    experiment = portable(model.experiment)
    weights = Weights(experiment, model.variables, model.label_names, source)
    weights_file.write(args.out, weights, args.half)
    print(
        f"{args.out}: {model.experiment.name}, step {model.step}, {args.out.stat().st_size:,} bytes"
    )
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
