"""The digits of a video as objects: classes, centres and boxes."""

import numpy as np

from rstg_jax.data.batches import Batch
from rstg_jax.data.sync_mnist import generator


def object_arrays(
    spec: generator.VideoSpec, digits: np.ndarray, coords: np.ndarray, labels: np.ndarray
) -> Batch:
    """Arrays of a batch that describe its digits.

    Args:
      spec: Its `classes` number the classes of objects.
      digits: int [b n], classes 0..9, the pair first.
      coords: int [b t n 2], corners on the canvas.
      labels: int [b].

    Returns:
      digits int32 [b n], coords int32 [b t n 2], object_class int32 [b n] (position in
      `spec.classes`), object_center float32 [b t n 2] (y, x in fractions of the frame) and
      object_in_pair bool [b n] (moves together with another one).
    """
    has_pair = labels < len(spec.label_names) - 1
    boxes = generator.sprite_boxes(coords, frame_size=1)
    return {
        "digits": digits.astype(np.int32),
        "coords": coords.astype(np.int32),
        "object_class": spec.positions[digits].astype(np.int32),
        "object_center": (boxes[..., :2] + boxes[..., 2:]) / 2,
        "object_in_pair": has_pair[:, None] & (np.arange(digits.shape[1]) < 2),
    }
