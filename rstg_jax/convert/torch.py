"""PyTorch weights of ResNets: ImageNet's into C2D or inflated into I3D, Kinetics' as they are.

    python -m rstg_jax.convert.torch FILE --arch=imagenet_i3d_r50 --out=DIR [--labels=FILE]

FILE is a state dict: .safetensors, read without PyTorch, or .pth, .pt, .pyth, for which PyTorch
must be installed (pickles are loaded weights-only). DIR becomes an ordinary checkpoint directory.
ARCH says from which project it is and how deep (see `rstg_jax.convert.torch_names`); every tensor
that is missing, unused or misshapen is named in the error.
"""

import argparse
import pickle
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from rstg_jax import cli
from rstg_jax.convert.torch_names import ARCHS, Arch, torch_name
from rstg_jax.errors import UserError
from rstg_jax.models import classifier
from rstg_jax.models.classifier import ModelConfig
from rstg_jax.models.heads import GlobalPooling
from rstg_jax.training.experiment import Experiment, TrainConfig
from rstg_jax.training.optim import OptimizerConfig

Arrays = Mapping[str, np.ndarray]

# Training scripts put the weights under one of these keys, and wrappers put a word before names.
WRAPPERS = ("model_state", "state_dict", "model_state_dict", "model")
PREFIX = re.compile(r"^((module|model|_orig_mod)\.)+")


def model_config(arch: Arch) -> ModelConfig:
    """The classifier around a network: mean over the last map, linear layer."""
    return ModelConfig(backbone=arch.backbone, rstg_at=(), head=GlobalPooling())


def convert(state: Arrays, arch: Arch) -> dict[str, Any]:
    """Maps a state dict to the variables of `models.build(model_config(arch), classes)`.

    Args:
      state: tensors by name, see `read`. 2D kernels are inflated: repeated along the frames under
        the kernel and divided by their number.
      arch: what they are for.

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
    name = torch_name(arch, ("classifier", "bias"))
    classes = len(left[name]) if name in left else 1
    problems: list[str] = []
    flat = {}
    for path, shape in _shapes(arch, classes).items():
        name = torch_name(arch, path[1:])
        value = left.pop(name, None)
        if value is None and arch.names.mmcv_attention and path[-2:] == ("out", "bias"):
            value = np.zeros(shape, np.float32)
        if value is None:
            problems.append(f"missing {name}")
            continue
        array = _turn(np.asarray(value, np.float32), path, shape)
        if array.shape != shape:
            problems.append(f"misshapen {name} {list(np.shape(value))}, ours is {list(shape)}")
        elif arch.names.mmcv_attention and path[-2] == "theta":
            array = array * shape[-1] ** 0.5
        flat[path] = array
    problems += [f"unused {name}" for name in left]
    if problems:
        listed = "; ".join(sorted(problems))
        raise UserError(f"the tensors do not fit the architecture: {listed}")
    return traverse_util.unflatten_dict(flat)


def _shapes(arch: Arch, classes: int) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The shapes of our variables by path."""
    module = classifier.build(model_config(arch), classes)
    video = jax.ShapeDtypeStruct((1, arch.frames, 64, 64, 3), jnp.uint8)
    tree = jax.eval_shape(module.init, jax.random.key(0), video)
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(tree).items()}


def _turn(value: np.ndarray, path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
    """PyTorch's axes `[out in (t) h w]` to ours, and one more axis for 2D kernels."""
    if path[-1] != "kernel" or value.ndim < 2:
        return value
    value = np.moveaxis(value, (1, 0), (-2, -1))
    if value.ndim == 4 and len(shape) == 5:
        value = np.repeat(value[None], shape[0], axis=0) / shape[0]
    return value


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a .safetensors file, or of a pickle that holds weights and no code.

    Raises:
      UserError: no such file, not such a file, or a package for it is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        from safetensors import SafetensorError, numpy
    except ImportError as error:
        raise UserError(
            f"{path} needs the package safetensors: pip install 'rstg-jax[convert]'"
        ) from error
    try:
        return numpy.load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a whole .safetensors file: {error}") from error


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path} needs PyTorch: pip install torch, or save the weights as .safetensors"
        ) from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        why = re.search(r"error: (.*?)( by default.*)?$", str(error), re.MULTILINE)
        reason = why[1] if why else str(error).split("\n")[0]
        raise UserError(f"{path} holds more than weights, which is refused: {reason}") from error
    except Exception as error:  # damaged pickles raise anything
        reason = str(error).split("\n")[0]
        raise UserError(f"{path} is not a whole PyTorch file: {reason}") from error
    wrapped = [loaded[k] for k in WRAPPERS if isinstance(loaded, Mapping) and k in loaded]
    weights = next((value for value in wrapped if isinstance(value, Mapping)), loaded)
    tensors = weights.items() if isinstance(weights, Mapping) else ()
    found = {k: v.float().numpy() for k, v in tensors if isinstance(v, torch.Tensor)}
    if not found:
        raise UserError(f"{path} holds no state dict, nor one under {', '.join(WRAPPERS)}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m rstg_jax.convert.torch", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("file", metavar="FILE", help=".safetensors, .pth, .pt or .pyth")
    parser.add_argument("--arch", required=True, choices=sorted(ARCHS), metavar="ARCH")
    parser.add_argument("--out", required=True, metavar="DIR", help="checkpoint directory to make")
    parser.add_argument("--labels", metavar="FILE", help="names of the classes, one a line")
    parser.epilog = f"ARCH is one of {', '.join(ARCHS)}"
    args = parser.parse_args(argv)
    from rstg_jax.convert import write  # Orbax is slow to import, and sets up logging

    write.check_free(args.out)
    arch = ARCHS[args.arch]
    variables = convert(read(args.file), arch)
    classes = len(variables["params"]["classifier"]["bias"])
    # Never trained like this; the optimiser is one with little state.
    experiment = Experiment(
        name=f"{args.arch} of {Path(args.file).name}",
        train=TrainConfig(total_steps=write.TOTAL_STEPS),
        model=model_config(arch),
        optim=OptimizerConfig("nesterov"),
    )
    write.write(
        args.out,
        experiment,
        variables,
        label_names=write.label_names(args.labels, classes),
        video_shape=(arch.frames, 224, 224, 3),
        source={"name": Path(args.file).name, "arch": args.arch},
    )
    print(f"{args.out}: {args.arch}, {classes} classes, from {args.file}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
