"""The layers of Inception networks, by name and in order.

All tables begin with the same convolutions and pools. A mixed block runs four branches on its input
and concatenates their channels: a 1x1x1 convolution; a 1x1x1 and a 3x3x3 one; a 1x1x1 and one or
two 3x3x3 ones; a pool and a 1x1x1 one. A block with stride 2 lacks the first and ends the last with
its pool. What else the published networks do differently is in `inception.py`.
"""

from typing import Any, Literal, NamedTuple

Size = tuple[int, int, int]
FULL_WIDTH = 64  # channels of the first convolution


class Conv(NamedTuple):
    """A convolution with kernel `size`, alike along all axes."""

    features: int
    size: int = 1
    stride: int = 1


class Pool(NamedTuple):
    """A max-pool over frames, rows and columns."""

    window: Size
    stride: Size = (2, 2, 2)


class Mixed(NamedTuple):
    """Channels of the convolutions of each branch, in order; pool of the last branch."""

    branches: tuple[tuple[int, ...], ...]
    pool: Literal["max", "average"] = "max"
    stride: int = 1


Row = Conv | Pool | Mixed


def _stem() -> dict[str, Row]:
    return {
        "conv1a": Conv(64, 7, 2),
        "pool2a": Pool((1, 3, 3), (1, 2, 2)),
        "conv2b": Conv(64),
        "conv2c": Conv(192, 3),
        "pool3a": Pool((1, 3, 3), (1, 2, 2)),
    }


def _v1(*widths: int) -> Mixed:
    a, b, c, d, e, f = widths
    return Mixed(((a,), (b, c), (d, e), (f,)))


def _v2(a: int, b: tuple[int, int], c: tuple[int, int, int], d: int, pool: Any = "average") -> Row:
    return Mixed(((a,), b, c, (d,)), pool)


def _v2_begin() -> dict[str, Row]:
    return _stem() | {
        "mixed3a": _v2(64, (64, 64), (64, 96, 96), 32),
        "mixed3b": _v2(64, (64, 96), (64, 96, 96), 64),
    }


TABLES: dict[str, dict[str, Row]] = {
    "v1": _stem()
    | {
        "mixed3b": _v1(64, 96, 128, 16, 32, 32),
        "mixed3c": _v1(128, 128, 192, 32, 96, 64),
        "pool4a": Pool((3, 3, 3)),
        "mixed4b": _v1(192, 96, 208, 16, 48, 64),
        "mixed4c": _v1(160, 112, 224, 24, 64, 64),
        "mixed4d": _v1(128, 128, 256, 24, 64, 64),
        "mixed4e": _v1(112, 144, 288, 32, 64, 64),
        "mixed4f": _v1(256, 160, 320, 32, 128, 128),
        "pool5a": Pool((2, 2, 2)),
        "mixed5b": _v1(256, 160, 320, 32, 128, 128),
        "mixed5c": _v1(384, 192, 384, 48, 128, 128),
    },
    "v2": _v2_begin()
    | {
        "mixed3c": Mixed(((), (128, 160), (64, 96, 96), ()), stride=2),
        "mixed4a": _v2(224, (64, 96), (96, 128, 128), 128),
        "mixed4b": _v2(192, (96, 128), (96, 128, 128), 128),
        "mixed4c": _v2(160, (128, 160), (128, 160, 160), 128),
        "mixed4d": _v2(96, (128, 192), (160, 192, 192), 128),
        "mixed4e": Mixed(((), (128, 192), (192, 256, 256), ()), stride=2),
        "mixed5a": _v2(352, (192, 320), (160, 224, 224), 128),
        "mixed5b": _v2(352, (192, 320), (192, 224, 224), 128, "max"),
    },
    "eco": _v2_begin() | {"conv3c_reduce": Conv(64), "conv3c": Conv(96, 3)},
}
