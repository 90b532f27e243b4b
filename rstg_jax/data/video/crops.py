"""Short-side resize and crops of frames, in training and in testing.

A frame is thought of as resized, its shape kept, until its shorter side is `resize` pixels long;
the longer side is rounded down. Crops are boxes in that resized frame, but only the part that is
wanted is ever computed, by one bicubic resampling straight from the decoded frame. That takes two
thirds of the time of resampling before cutting, the official order, and differs from it by at most
2 of 255 (where nothing overshoots): Pillow holds the box in single precision, and chooses which
axis to filter first by their cost.
"""

import dataclasses

import numpy as np
from PIL import Image

Size = tuple[int, int]  # width, height


@dataclasses.dataclass(frozen=True)
class Box:
    """Part of a resized frame, in its pixels."""

    left: int
    top: int
    width: int
    height: int


def resized(size: Size, short_side: int) -> Size:
    """Width and height of a frame after its shorter side has become `short_side`."""
    width, height = size
    if width < height:
        return short_side, height * short_side // width
    return width * short_side // height, short_side


def view_boxes(size: Size, crop: int, views: int) -> list[Box]:
    """Square crops for testing.

    One view is the centre. Several are spread evenly over the longer side, from end to end, and
    centred on the shorter one (the official ones are as high as the frame).

    Args:
      size: Of the resized frame.
      crop: Side of the crops.
      views: Number of crops.
    """
    left, top = (side // 2 - crop // 2 for side in size)
    if views == 1:
        return [Box(left, top, crop, crop)]
    places = np.linspace(0, max(size) - crop, views).astype(int).tolist()
    if size[0] < size[1]:
        return [Box(left, place, crop, crop) for place in places]
    return [Box(place, top, crop, crop) for place in places]


def corner_boxes(size: Size, crop: int) -> list[Box]:
    """Square crops for testing: the four corners and the centre.

    As in TSN and TRN, `fill_fix_offset` in transforms.py of yjxiong/tsn-pytorch, whose steps are
    whole quarters: the right and lower crops end up to three pixels before the border.

    Args:
      size: Of the resized frame.
      crop: Side of the crops.
    """
    x, y = ((side - crop) // 4 for side in size)
    corners = ((0, 0), (4 * x, 0), (0, 4 * y), (4 * x, 4 * y), (2 * x, 2 * y))
    return [Box(left, top, crop, crop) for left, top in corners]


def train_box(size: Size, crop: int, scales: tuple[float, ...], draws: np.ndarray) -> Box:
    """A random crop for training.

    Args:
      size: Of the resized frame.
      crop: Side of the crop if there are no `scales`.
      scales: Sides of the crop as fractions of the frame's shorter side, in falling order. Width
        and height are drawn among pairs of equal or neighbouring fractions (as in TSN); the crop is
        to be resampled to a square then. None: the crop is as large as `crop`.
      draws: float64 [3] in [0, 1): which pair of scales, and the places along x and y.
    """
    width = height = crop
    if scales:
        numbers = range(len(scales))
        pairs = [(i, j) for i in numbers for j in numbers if abs(i - j) <= 1]
        i, j = pairs[int(draws[0] * len(pairs))]
        width, height = (max(1, round(scales[k] * min(size))) for k in (i, j))
    left = int(draws[1] * (size[0] - width + 1))
    top = int(draws[2] * (size[1] - height + 1))
    return Box(left, top, width, height)


def cut(image: Image.Image, size: Size, box: Box, out: Size) -> Image.Image:
    """The part `box` of the image resized to `size`, resampled to `out` if it is not so large.

    Args:
      image: A decoded frame.
      size: Of the resized frame.
      box: In pixels of the resized frame.
      out: Width and height wanted.
    """
    if image.size == size and out == (box.width, box.height):
        return image.crop((box.left, box.top, box.left + box.width, box.top + box.height))
    return image.resize(out, Image.Resampling.BICUBIC, box=source(image.size, size, box))


def source(original: Size, size: Size, box: Box) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a part of the resized frame, in pixels of the decoded one.

    Args:
      original: Size of the decoded frame.
      size: Of the resized frame.
      box: In pixels of the resized frame.
    """
    x, y = original[0] / size[0], original[1] / size[1]
    return box.left * x, box.top * y, (box.left + box.width) * x, (box.top + box.height) * y


def brightness_table(delta: float) -> list[int]:
    """New value of each of the values 0..255 of three channels after a change of brightness.

    The arithmetic is that of TensorFlow's `adjust_brightness`, which the official code uses: to
    float32 of 0..1, plus `delta`, back by truncation with 255.5, saturated.
    """
    values = np.arange(256, dtype=np.float32) * np.float32(1 / 255) + np.float32(delta)
    return np.clip(values * np.float32(255.5), 0, 255).astype(np.uint8).tolist() * 3
