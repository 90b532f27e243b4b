"""Weights as one .safetensors file: arrays, and in its metadata the config and the label names.

The format executes nothing, and other frameworks read it. Arrays have the paths of the model's
variables, such as ``params/backbone/conv0/kernel``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rstg_jax import config, files, storage
from rstg_jax.errors import UserError, translated
from rstg_jax.training.experiment import Experiment
from rstg_jax.training.weights import Weights

SUFFIX = ".safetensors"
FORMAT = "rstg_jax weights 1"
COLLECTIONS = ("params", "batch_stats")
TYPES = ("F32", "F16")

_SHIPPED = Path(__file__).parents[1] / "weights"
# Files of the package by their names, such as sync_mnist/demo; beside each is its card, a .md.
SHIPPED = {
    f"{path.parent.name}/{path.stem}": path for path in sorted(_SHIPPED.glob(f"*/*{SUFFIX}"))
}


def write(path: Path, weights: Weights, half: bool = False) -> None:
    """Writes the file, whole or not at all.

    Args:
      path: of the file.
      weights: what it will hold.
      half: store float16, half the size; values keep 11 bits.

    Raises:
      UserError: it cannot be written, or a weight does not fit into float16.
    """
    dtype = np.float16 if half else np.float32
    arrays = {name: np.asarray(value, np.float32) for name, value in flat(weights).items()}
    largest = np.finfo(dtype).max
    for name, value in arrays.items():
        if not (np.abs(value) <= largest).all():  # NaN is not either
            raise UserError(f"{path}: {name} has values that are not finite as {dtype.__name__}")
    metadata = {
        "format": FORMAT,
        "config": json.dumps(config.to_dict(weights.experiment)),
        "label_names": json.dumps(weights.label_names),
        "source": json.dumps(dict(weights.source)),
    }
    arrays = {name: np.ascontiguousarray(value, dtype) for name, value in arrays.items()}
    files.write_bytes(path, _in_order(save(arrays, metadata)))


def _in_order(content: bytes) -> bytes:
    """The same file with its metadata in order; the library's is random, so no two would be equal.

    A file begins with the length of its header, a JSON text that ends at a multiple of 8 bytes.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]


def read(path: storage.Path) -> Weights:
    """Reads the file; all arrays become float32.

    Raises:
      UserError: no such file, a damaged one, or one of another kind.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with storage.at_hand(path) as local, safe_open(local, framework="numpy") as file:
            metadata: Mapping[str, str] = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise UserError(
                    f"{path} holds no {FORMAT}; python -m rstg_jax.convert.torch reads the files "
                    "of PyTorch projects"
                )
            arrays = {}
            for name in file.keys():  # noqa: SIM118  it is no mapping
                kind = file.get_slice(name).get_dtype()
                if kind not in TYPES or name.partition("/")[0] not in COLLECTIONS:
                    raise UserError(f"{path}: {name} of type {kind} is no weight of a model")
                arrays[name] = file.get_tensor(name).astype(np.float32)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a whole {SUFFIX} file: {error}") from error
    with translated(lambda error: f"{path}: its metadata are damaged ({error})"):
        return Weights(
            experiment=config.from_dict(Experiment, json.loads(metadata["config"])),
            variables=traverse_util.unflatten_dict(arrays, sep="/"),
            label_names=tuple(map(str, json.loads(metadata["label_names"]))),
            source=dict(json.loads(metadata["source"])),
        )


def flat(weights: Weights) -> dict[str, Any]:
    """All arrays by path."""
    return traverse_util.flatten_dict(dict(weights.variables), sep="/")
