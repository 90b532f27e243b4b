"""Converts weights of other projects, most of them PyTorch's, to a checkpoint directory.

    python -m rstg_jax.convert.torch FILE --arch=imagenet_i3d_r50 --out=DIR [--labels=FILE]

FILE is a state dict: .safetensors, read without PyTorch, or .pth, .pt, .pyth, for which PyTorch
must be installed (pickles are loaded weights-only), the .index.json of one in several files, a
.pkl of Caffe2 (PySlowFast's first models, video-nonlocal-net), of which only arrays are taken,
the .npz of VideoPrism's authors, or the PREFIX of DeepMind's TensorFlow checkpoints.
ARCH says from which project it is and how deep (see `rstg_jax.convert.torch_names`); ImageNet's
ResNets stay networks on frames or are inflated into I3D. Every tensor that is missing, unused or
misshapen is named in the error. Encoders alone (`vjepa2_l_encoder`) get
a classifier of one class and zeros, which training replaces by one for its labels.

DIR becomes an ordinary checkpoint directory. Its weights read RGB and its config has the clips that
the network was trained on and its publishers' test views. They follow from ARCH and the number of
classes, which tells the data set; --channels=rgb|bgr is for files that were trained otherwise.

    python -m rstg_jax.predict --workdir=DIR clip.mp4
    python -m rstg_jax.evaluate --workdir=DIR --config.data.path=V --config.data.test_path=V

where V has one directory per label (see `rstg_jax.data.FolderConfig`), named as in --labels.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from rstg_jax import cli
from rstg_jax.convert import fit
from rstg_jax.convert.torch_files import read
from rstg_jax.convert.torch_names import ARCHS, Arch, Channels
from rstg_jax.data import ClipConfig, FolderConfig
from rstg_jax.models.config import ModelConfig
from rstg_jax.training.experiment import Experiment, TrainConfig
from rstg_jax.training.optim import OptimizerConfig

PIXEL_CHANNELS = 3
# Wrappers put a word before names.
PREFIX = re.compile(r"^((module|model|_orig_mod)\.)+")


def model_config(arch: Arch) -> ModelConfig:
    """The classifier around a network: its head, a linear layer."""
    return ModelConfig(
        backbone=arch.backbone, rstg_at=(), head=arch.head, view_average=arch.view_average
    )


def data_config(arch: Arch) -> FolderConfig:
    """Videos of the user's own, seen as in the training and the tests of the network."""
    clip = ClipConfig(
        frames=arch.frames,
        sampling="segments" if arch.stride is None else "stride",
        stride=arch.stride or 1,
        resize=arch.resize or arch.crop * 256 // 224,
        crop=arch.crop,
    )
    return FolderConfig(clip=clip).with_protocol(arch.protocol)


def convert(state: fit.Arrays, arch: Arch, *, channels: Channels | None = None) -> dict[str, Any]:
    """Maps a state dict to the variables of `classifier.build(model_config(arch), classes)`.

    Args:
      state: tensors by name, see `read`. 2D kernels are inflated: repeated along the frames under
        the kernel and divided by their number.
      arch: what they are for.
      channels: order of the colours that the tensors expect; that of `arch` if None. Ours will read
        RGB as always.

    Returns:
      `{"params": ..., "batch_stats": ...}`, NumPy float32.

    Raises:
      UserError: names every tensor that is missing, unused or misshapen.
    """
    left = {
        PREFIX.sub("", name): value
        for name, value in state.items()
        if not name.endswith(".num_batches_tracked")
    }
    variables = fit.fit(
        left, model_config(arch), arch.names, frames=arch.frames, side=arch.crop, turn=turn
    )
    expected = channels or arch.with_classes(num_classes(variables)).channels
    return backwards(variables) if expected == "bgr" else variables


def num_classes(variables: Mapping[str, Any]) -> int:
    """Number of classes of converted variables."""
    return len(variables["params"]["classifier"]["bias"])


def backwards(variables: dict[str, Any]) -> dict[str, Any]:
    """Turns round the input channels of the kernels that read pixels, which alone have three."""
    flat = traverse_util.flatten_dict(variables)
    for path, value in flat.items():
        if path[1] == "backbone" and path[-1] == "kernel" and value.shape[-2] == PIXEL_CHANNELS:
            flat[path] = value[..., ::-1, :]
    return dict(traverse_util.unflatten_dict(flat))


def turn(value: np.ndarray) -> np.ndarray:
    """PyTorch's axes `[out in ...]` to `[... in out]`."""
    return np.moveaxis(value, (1, 0), (-2, -1))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = cli.command_parser("rstg_jax.convert.torch", __doc__)
    parser.add_argument("file", metavar="FILE", help=".safetensors, .pth, .pkl, .npz, ...")
    parser.add_argument(
        "--arch", required=True, choices=sorted(ARCHS), metavar="ARCH", help="project and network"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="checkpoint directory to make")
    parser.add_argument("--labels", metavar="FILE", help="names of the classes, one a line")
    parser.add_argument(
        "--channels", choices=("rgb", "bgr"), help="order of colours in training; default: ARCH's"
    )
    parser.epilog = f"ARCH is one of {', '.join(ARCHS)}"
    args = parser.parse_args(argv)
    from rstg_jax.convert import write  # Orbax is slow to import, and sets up logging

    write.check_free(args.out)
    arch = ARCHS[args.arch]
    variables = convert(read(args.file), arch, channels=args.channels)
    classes = num_classes(variables)
    arch = arch.with_classes(classes)
    channels = args.channels or arch.channels
    # Never trained like this; the optimiser is one with little state.
    experiment = Experiment(
        name=f"{args.arch} of {Path(args.file).name}",
        train=TrainConfig(total_steps=write.TOTAL_STEPS),
        model=model_config(arch),
        data=data_config(arch),
        optim=OptimizerConfig("nesterov"),
    )
    write.write(
        args.out,
        experiment,
        variables,
        label_names=write.label_names(args.labels, classes),
        video_shape=experiment.data.clip_shape,
        source={"name": Path(args.file).name, "arch": args.arch, "channels": channels},
    )
    seen = f"trained on {channels.upper()}, tested by {experiment.data.protocol}"
    print(f"{args.out}: {args.arch}, {classes} classes, {seen}, from {args.file}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
