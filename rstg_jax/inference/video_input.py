"""Reads a video file as input of a trained model."""

from pathlib import Path

import numpy as np

from rstg_jax.data import DataConfig
from rstg_jax.data.video import decode
from rstg_jax.errors import UserError


def read(path: str | Path, config: DataConfig) -> np.ndarray:
    """Reads a video file as testing would.

    Args:
      path: a video file, an animated image, an array (.npy, uint8 [t h w] or [t h w c]), or a
        directory of images in the order of their names.
      config: of the data that the model was trained on, see `DataConfig.read_video`.

    Returns:
      uint8 [t h w c], or [v t h w c] with several views.

    Raises:
      UserError: the file is missing, damaged, empty or of an unknown kind; the message names it.
    """
    try:
        with decode.opened(Path(path)) as frames:
            return config.read_video(frames)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
