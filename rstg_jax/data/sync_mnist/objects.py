"""The digits of a video as objects: classes, centres and partners."""

from typing import Any

from rstg_jax.data.sync_mnist.canvas import CANVAS, SPRITE
from rstg_jax.data.sync_mnist.generator import VideoSpec


def object_arrays(
    xp: Any, spec: VideoSpec, digits: Any, coords: Any, labels: Any
) -> dict[str, Any]:
    """Arrays of a batch that describe its digits, or those of a single video without axis b.

    Args:
      xp: `numpy` or `jax.numpy`.
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
    return {
        "digits": digits.astype(xp.int32),
        "coords": coords.astype(xp.int32),
        "object_class": xp.asarray(spec.positions)[digits].astype(xp.int32),
        "object_center": (coords.astype(xp.float32) + SPRITE / 2) / CANVAS,
        "object_in_pair": has_pair[..., None] & (xp.arange(digits.shape[-1]) < 2),
    }
