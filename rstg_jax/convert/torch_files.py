"""Reads the files in which other projects publish weights."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from rstg_jax import files
from rstg_jax.convert import caffe2, tf_checkpoint
from rstg_jax.errors import UserError, first_line, reason, translated

# Training scripts put the weights under one of these keys.
WRAPPERS = ("model_state", "state_dict", "model_state_dict", "model", "target_encoder", "module")
INDEX = ".index.json"
# Others are quantised: their scales are tensors of their own, which no converter here applies.
TYPES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"},
    **{"I64": "int64", "I32": "int32"},
}


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a .safetensors file, or of a pickle that holds weights and no code.

    An .npz has arrays by name. A .pkl is one of Caffe2, whose arrays get the names of PySlowFast.

    Args:
      path: the file, or the .index.json of weights that are spread over several files, or the
        PREFIX or PREFIX.index of a TensorFlow checkpoint.

    Raises:
      UserError: no such file, not such a file, or a package for it is not installed.
    """
    path = Path(path)
    if path.suffix == ".index" or Path(f"{path}.index").is_file():
        return tf_checkpoint.read(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.name.endswith(INDEX):
        return _read_index(path)
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix == ".pkl":
        return dict(caffe2.read(path))
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def _read_index(path: Path) -> dict[str, np.ndarray]:
    """Reads the tensors from all files that an index names."""
    try:
        places = {str(k): str(v) for k, v in files.read_json(path)["weight_map"].items()}
    except (UserError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not an index of weights: it has no weight_map") from error
    state: dict[str, np.ndarray] = {}
    for file in sorted(set(places.values())):
        if file.endswith(INDEX):
            raise UserError(f"{path}: names {file}, which is an index again")
        state |= read(path.parent / file)
    if missing := sorted(places.keys() - state.keys()):
        raise UserError(f"{path}: {places[missing[0]]} lacks {missing[0]}")
    return state


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    def damaged(error: Exception) -> str:
        return f"{path} is not a whole .npz file of arrays: {reason(error)}"

    with (
        translated(damaged),
        path.open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        return {name: arrays[name] for name in arrays.files}


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118  it is no mapping
                kind = file.get_slice(name).get_dtype()
                _check_type(path, name, TYPES.get(kind, kind))
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a whole .safetensors file: {error}") from error


def _check_type(path: Path, name: str, kind: str) -> None:
    if kind not in TYPES.values():
        raise UserError(
            f"{path}: {name} is of type {kind}; save the weights as float32, float16 or bfloat16"
        )


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
        why = re.search(r"error:\s*(\S.*?)( by default.*)?$", str(error), re.MULTILINE)
        reason = why[1] if why else first_line(error)
        if "operand" in reason:  # of the machine that runs pickles: these are other bytes
            raise UserError(f"{path} is not a PyTorch file: {reason}") from error
        raise UserError(f"{path} holds more than weights, which is refused: {reason}") from error
    except Exception as error:  # damaged pickles raise anything
        raise UserError(f"{path} is not a whole PyTorch file: {first_line(error)}") from error
    wrapped = [loaded[k] for k in WRAPPERS if isinstance(loaded, Mapping) and k in loaded]
    weights = next((value for value in wrapped if isinstance(value, Mapping)), loaded)
    items = weights.items() if isinstance(weights, Mapping) else ()
    tensors = {name: value for name, value in items if isinstance(value, torch.Tensor)}
    if not tensors:
        raise UserError(f"{path} holds no state dict, nor one under {', '.join(WRAPPERS)}")
    return {name: _array(path, name, tensor) for name, tensor in tensors.items()}


def _array(path: Path, name: str, tensor: Any) -> np.ndarray:
    """A tensor of PyTorch in float32; some are parameters with gradients."""
    _check_type(path, name, str(tensor.dtype).removeprefix("torch."))
    try:
        array: np.ndarray = tensor.detach().float().numpy()
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{path}: {name} cannot be read: {first_line(error)}") from error
    return array
