"""Numbers made by the official TensorFlow-1 code (float32, CPU); see README.md here."""

import pathlib

import numpy as np


def load(name: str) -> dict[str, np.ndarray]:
    """All arrays of `tests/golden/NAME.npz`."""
    with np.load(pathlib.Path(__file__).parent / f"{name}.npz") as arrays:
        return dict(arrays)
