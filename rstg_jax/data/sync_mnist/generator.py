"""The SyncMNIST process: handwritten digits wander, and perhaps two of them move together.

The label names these two. The law of motion and the rendering are those of the RSTG authors'
generator (arXiv 1904.05582, section 4.1); given the same digit images and positions, the videos are
the same byte for byte.

`sample` draws positions from `rstg_jax.data.random_stream`, `renderer.Renderer` draws pixels.

Axes: b video, t frame, n digit (the pair that may move together first), h w rows and columns.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from rstg_jax.data import random_stream
from rstg_jax.data.random_stream import below
from rstg_jax.data.sync_mnist import delayed
from rstg_jax.data.sync_mnist.canvas import MAX_CORNER, MAX_STEP, SPRITE
from rstg_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class VideoSpec:
    """The parameters of the random process that makes a video.

    Attributes:
      num_digits: Digits in a video, all of different classes.
      classes: The digit classes in use. Labels count the pairs of POSITIONS i > j in this tuple.
      num_frames: Frames of a video.
      none_probability: Share of videos without a synchronous pair (1/92 in the published data).
      delay: Frames by which one digit of the pair follows the other one, in the law of motion of
        `rstg_jax.data.sync_mnist.delayed`; None is the published law.
    """

    num_digits: int = 5
    classes: tuple[int, ...] = tuple(range(10))
    num_frames: int = 10
    none_probability: float = 1 / 92
    delay: int | None = None

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes) or not set(self.classes) <= set(range(10)):
            raise UserError(f"classes={self.classes} must be different digits of 0..9")
        if not 2 <= self.num_digits <= len(self.classes):
            raise UserError(
                f"num_digits={self.num_digits} must lie in 2..{len(self.classes)}, the number of "
                "classes: the digits of a video are of different classes"
            )
        if self.num_frames < 1:
            raise UserError(f"num_frames={self.num_frames} must be at least 1")
        if not 0 <= self.none_probability <= 1:
            raise UserError(f"none_probability={self.none_probability} must lie in 0..1")
        if self.delay is not None and not 0 <= self.delay < self.num_frames:
            raise UserError(
                f"delay={self.delay} must lie in 0..{self.num_frames - 1}: a clip of num_frames="
                f"{self.num_frames} would show no repeated step"
            )

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names such as "3-7" in the order of the labels; the last is "none"."""
        pairs = [(i, j) for i in range(len(self.classes)) for j in range(i)]
        return (*(f"{self.classes[j]}-{self.classes[i]}" for i, j in pairs), "none")

    @functools.cached_property
    def positions(self) -> np.ndarray:
        """Position in `classes` of each digit 0..9, -1 for those not in use; int [10]."""
        positions = np.full(10, -1)
        positions[list(self.classes)] = np.arange(len(self.classes))
        return positions

    @property
    def num_draws(self) -> int:
        """32-bit random numbers that one video owns."""
        places = 1 if self.delay is None else 2  # the start, and the square that it lies in
        moves = places + self.num_frames + (self.delay or 0)
        return 1 + 2 * (self.num_digits - 1) + 2 * self.num_digits * moves


@dataclasses.dataclass(frozen=True)
class Digits:
    """Handwritten digits: uint8 images [image 28 28] and integer classes 0..9 [image]."""

    images: np.ndarray
    classes: np.ndarray

    def __post_init__(self) -> None:
        if (
            self.images.shape != (len(self.classes), SPRITE, SPRITE)
            or self.images.dtype != np.uint8
        ):
            raise UserError(
                f"digit images must be uint8 [{len(self.classes)}, 28, 28], as many as classes, "
                f"not {self.images.dtype} {list(self.images.shape)}"
            )

    def __len__(self) -> int:
        return len(self.classes)

    @functools.cached_property
    def by_class(self) -> tuple[np.ndarray, ...]:
        """Image indices of each class 0..9."""
        return tuple(np.flatnonzero(self.classes == c) for c in range(10))


@dataclasses.dataclass(frozen=True)
class Trajectories:
    """Everything about a batch of videos but their pixels.

    Attributes:
      images: int32 [b n], which digit image.
      digits: int32 [b n], its class. The first two are the pair, synchronous unless the label says
        "none".
      coords: int32 [b t n 2], (row, column) of the sprite's top left corner on the canvas, 0..71.
      labels: int32 [b].
    """

    images: np.ndarray
    digits: np.ndarray
    coords: np.ndarray
    labels: np.ndarray


def pair_label(i: Any, j: Any, xp: Any = np) -> Any:
    """Label of the synchronous pair of positions i != j: `i * (i - 1) / 2 + j` for i > j.

    Args:
      i: Integers, arrays of `xp`.
      j: Likewise.
      xp: `numpy` or `jax.numpy`.
    """
    high, low = xp.maximum(i, j), xp.minimum(i, j)
    return high * (high - 1) // 2 + low


def sample(
    spec: VideoSpec, digits: Digits, indices: np.ndarray, *, seed: int, split: str
) -> Trajectories:
    """Draws examples `indices` of (seed, split).

    Image `i % (number of images of the spec's classes)` leads example i, as in the published data,
    where each of 60,000 training images leads 10 of 600,000 videos; the other digits are drawn.

    Args:
      spec: What to draw.
      digits: Images to choose from.
      indices: int64 [b], any non-negative.
      seed: 0..2**64 - 1.
      split: "train" or "test"; another stream. That they share no image is the caller's care.

    Returns:
      Trajectories of b videos.

    Raises:
      UserError: If a class has no image.
    """
    for c in spec.classes:
        if not len(digits.by_class[c]):
            raise UserError(
                f"split {split!r} has no image of digit {c}: give other classes or other digits"
            )
    indices = np.asarray(indices, np.int64)
    bits = random_stream.words(seed, split, indices, spec.num_draws)
    n = spec.num_digits
    none, which_class, which_image, moves = np.split(bits, np.cumsum([1, n - 1, n - 1]), axis=1)
    moves = moves.reshape(len(indices), moves.shape[1] // (2 * n), n, 2)
    is_none = none[:, 0] < np.uint64(round(spec.none_probability * 2**32))
    positions, images = _choose(spec, digits, indices, which_class, which_image)
    pairs = pair_label(positions[:, 0], positions[:, 1])
    return Trajectories(
        images=images.astype(np.int32),
        digits=np.array(spec.classes, np.int32)[positions],
        coords=_corners(spec, moves, is_none).astype(np.int32),
        labels=np.where(is_none, len(spec.label_names) - 1, pairs).astype(np.int32),
    )


def _choose(
    spec: VideoSpec,
    digits: Digits,
    indices: np.ndarray,
    which_class: np.ndarray,
    which_image: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Positions in `spec.classes` and image indices of the digits, both [b n]."""
    leads = np.flatnonzero(spec.positions[digits.classes] >= 0)
    images = np.empty((len(indices), spec.num_digits), np.int64)
    images[:, 0] = leads[indices % len(leads)]
    # Fisher-Yates: the first n of a shuffled row of positions, after the leading image's.
    row = np.arange(len(indices))
    shuffled = np.tile(np.arange(len(spec.classes)), (len(indices), 1))
    chosen = spec.positions[digits.classes[images[:, 0]]]
    for k in range(spec.num_digits):
        if k:
            chosen = k + below(which_class[:, k - 1], len(spec.classes) - k)
        shuffled[row, chosen], shuffled[:, k] = shuffled[:, k].copy(), shuffled[row, chosen]
    positions = shuffled[:, : spec.num_digits]

    counts = np.array([len(digits.by_class[c]) for c in spec.classes])
    starts = np.cumsum(counts) - counts
    pool = np.concatenate([digits.by_class[c] for c in spec.classes])
    others = positions[:, 1:]
    images[:, 1:] = pool[starts[others] + below(which_image, counts[others])]
    return positions, images


def _corners(spec: VideoSpec, bits: np.ndarray, is_none: np.ndarray) -> np.ndarray:
    """Random bits [b moves n 2] -> corners int [b t n 2] by the law of motion of a spec."""
    if spec.delay is None:
        return _move(bits[:, 0], bits[:, 1:], is_none)
    return delayed.move(np, below, bits[:, 0], bits[:, 1], bits[:, 2:], ~is_none, spec.delay)


def _move(start: np.ndarray, steps: np.ndarray, is_none: np.ndarray) -> np.ndarray:
    """Random bits of starts [b n 2] and steps [b t n 2] -> corners int32 [b t n 2].

    Every digit moves before every frame, also the first, by integers of [lo, hi) that keep it in
    0..71. The pair shares one step within the tightest of its two ranges, none on an axis where
    that is empty.
    """
    position = below(start, MAX_CORNER + 1)
    coords = np.empty(steps.shape, np.int32)
    pair = ~is_none[:, None]
    for t in range(steps.shape[1]):
        bits = steps[:, t]
        bits[:, 1] = np.where(pair, bits[:, 0], bits[:, 1])
        low = np.maximum(-MAX_STEP, -position)
        high = np.minimum(MAX_STEP, MAX_CORNER - position)
        low[:, :2] = np.where(pair[..., None], low[:, :2].max(1, keepdims=True), low[:, :2])
        high[:, :2] = np.where(pair[..., None], high[:, :2].min(1, keepdims=True), high[:, :2])
        span = high - low
        position += np.where(span > 0, low + below(bits, np.maximum(span, 0)), 0)
        coords[:, t] = position
    return coords
