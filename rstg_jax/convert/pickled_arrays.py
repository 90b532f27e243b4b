"""Reads pickles of dicts, numbers and NumPy arrays without running anything that is in them.

A pickle is a program. Here it can name the few things that an array is made of, and gets stand-ins
for these that only record what they are given.
"""

import io
import math
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rstg_jax.errors import UserError, reason, translated

TYPES = ("f2", "f4", "f8", "i4", "i8")


class _DType:
    """Stands for `numpy.dtype`."""

    def __init__(self, name: str, *_: Any):
        self.name, self.order = name, "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def numpy(self) -> np.dtype:
        """The type, if it is one of numbers."""
        if self.name not in TYPES or self.order not in ("<", ">"):
            raise pickle.UnpicklingError(f"arrays of type {self.order}{self.name} are not read")
        return np.dtype(self.order + self.name)


class _Array:
    """Stands for `numpy.ndarray`."""

    value: np.ndarray

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, content = state
        content = content.encode("latin1") if isinstance(content, str) else content
        kind = dtype.numpy()
        if len(content) != math.prod(shape) * kind.itemsize:
            raise pickle.UnpicklingError(f"{len(content)} bytes are no array of {list(shape)}")
        self.value = np.frombuffer(content, kind).reshape(shape, order="F" if is_fortran else "C")


def _scalar(dtype: _DType, content: bytes | str) -> _Array:
    """Stands for the function that makes a number of a type of NumPy."""
    array = _Array()
    array.__setstate__((1, (), dtype, False, content))
    return array


def _reconstruct(*_: Any) -> _Array:
    """Stands for the function that makes an empty array, whose state follows."""
    return _Array()


def _encode(text: str = "", *_: Any) -> bytes:
    """Stands for the functions that make bytes in Python 3's pickles of protocol 2."""
    return text.encode("latin1")


STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,  # NumPy 1
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _encode,
}


class _ArraysOnly(pickle._Unpickler):
    """In Python: the C version reserves memory for any number of objects that a file claims."""

    def find_class(self, module: str, name: str) -> Any:
        """Only the stand-ins; all else would run code."""
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return STAND_INS[module, name]

    def load_build(self: Any) -> None:
        """Gives a stand-in its state; others would be changed for the rest of this process."""
        state, instance = self.stack.pop(), self.stack[-1]
        if not isinstance(instance, _DType | _Array):
            raise pickle.UnpicklingError("it changes what is no array")
        instance.__setstate__(state)

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}
    del dispatch[pickle.BYTEARRAY8[0]]  # takes the memory that a file claims


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a pickle of nested dicts; numbers are arrays without axes.

    Returns:
      Keys of all levels, joined by "/" -> array.

    Raises:
      UserError: no such file, a damaged one, or one that holds anything else.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    with translated(lambda error: f"{path} is no pickle of arrays alone: {reason(error)}"):
        loaded = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
        return dict(_flat(loaded))


def _flat(tree: Any, prefix: str = "") -> list[tuple[str, np.ndarray]]:
    if isinstance(tree, _Array):
        return [(prefix, tree.value)]
    if type(tree) in (int, float) and prefix:
        return [(prefix, np.array(tree, np.float64))]
    if not isinstance(tree, dict):
        raise pickle.UnpicklingError(f"{prefix or 'the whole'} is a {type(tree).__name__}")
    return [
        item
        for key, value in tree.items()
        for item in _flat(value, f"{prefix}/{key}" if prefix else str(key))
    ]
