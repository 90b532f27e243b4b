"""Cups: a ball lies under one of identical cups, the cups change places, where is the ball?

Made while it is needed. The ball is seen in the first frames only; later frames show cups that
are all alike, so that the label, the ball's place at the end, is known to those alone who followed
its cup through every swap. With three cups no single frame says anything about the label, and all
frames without their order little (tests/data/test_cups.py computes how little).

Frames are maps of two channels, ball and cup (`rstg_jax.data.object_maps`). Cups stand in a row.
Two that change places walk half a circle about each other, the left one above; the others wait.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import humanize
import numpy as np

from rstg_jax.data import object_maps, random_stream
from rstg_jax.data.batches import Batch, Source
from rstg_jax.data.dataset import DataConfig, check_split
from rstg_jax.data.online import OnlineVideos
from rstg_jax.data.video import decode
from rstg_jax.errors import UserError

SHOWN = 2  # frames in which the ball is seen
KINDS = ("ball", "cup")  # the channels of a map


@dataclasses.dataclass(frozen=True)
class CupsConfig(DataConfig):
    """A game of cups.

    Attributes:
      num_cups: Cups in the row; the labels are their places, from the left.
      num_swaps: How often two of them change places, any two with equal chances.
      num_frames: Frames of a video. Every swap begins at random within its share of them.
      swap_frames: Frames that a swap takes.
      frame_size: Rows and columns of a frame, in cells of a map.
      num_test: Videos of the test split; training has no end.
      seed: Of the videos, 0..2**64 - 1.
    """

    num_cups: int = 3
    num_swaps: int = 5
    num_frames: int = 64
    swap_frames: int = 4
    frame_size: int = 8
    num_test: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        random_stream.check_seed(self.seed)
        least = {"num_swaps": 1, "num_test": 1, "swap_frames": 2, "frame_size": 4}
        for key, value in least.items():
            if getattr(self, key) < value:
                raise UserError(f"{key}={getattr(self, key)} must be at least {value}")
        if not 2 <= self.num_cups <= self.frame_size:
            raise UserError(
                f"num_cups={self.num_cups} must lie in 2..{self.frame_size}, the cells of a row "
                "(frame_size)"
            )
        if self.share < self.swap_frames:
            needed = SHOWN + self.num_swaps * self.swap_frames
            raise UserError(
                f"num_frames={self.num_frames} are too few for num_swaps={self.num_swaps}: at "
                f"least {needed}"
            )

    @property
    def share(self) -> int:
        """Frames in which one swap takes place."""
        return (self.num_frames - SHOWN) // self.num_swaps

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Places that can be swapped, the left one first."""
        return tuple(itertools.combinations(range(self.num_cups), 2))

    @property
    def num_draws(self) -> int:
        """32-bit random numbers that one video owns."""
        return 1 + 2 * self.num_swaps

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        return (self.num_frames, self.frame_size, self.frame_size, len(KINDS))

    @property
    def num_classes(self) -> int:
        return self.num_cups

    @property
    def has_frame_labels(self) -> bool:
        return True

    def open(self, split: str) -> Source:
        check_split(split)
        names = tuple(f"place {place + 1}" for place in range(self.num_cups))
        return OnlineVideos(self, split, "Cups", names, on_the_host)

    def read_video(self, frames: decode.Frames) -> np.ndarray:
        raise UserError("the frames of Cups are no pictures: a video cannot be turned into them")

    def describe(
        self, label_names: Sequence[str], provenance: Mapping[str, Mapping[str, Any]]
    ) -> tuple[str, ...]:
        number = humanize.apnumber(self.num_cups).capitalize()
        return (
            f"{number} identical cups stand in a row. A ball is seen under one of them in the first"
            f" {SHOWN} frames; then two of the cups change places, {self.num_swaps} times. The "
            "network is shown the video and names the place of the ball at the end.",
        )

    def decisive_boxes(self, batch: Mapping[str, np.ndarray], row: int) -> np.ndarray | None:
        """Boxes of the cup with the ball, `[t 1 4]`."""
        if "ball" not in batch:
            return None
        center, half = batch["ball"][row], 1 / self.frame_size
        return np.concatenate([center - half, center + half], axis=-1)[:, None]


def on_the_host(config: CupsConfig, bits: np.ndarray) -> Batch:
    """`make_videos` with NumPy."""
    made: Batch = make_videos(np, random_stream.below, config, bits)
    return made


def make_videos(
    xp: Any, below: Callable[[Any, int], Any], config: CupsConfig, bits: Any
) -> dict[str, Any]:
    """Videos from random bits; the same from NumPy and from JAX arrays.

    Args:
      xp: `numpy` or `jax.numpy`.
      below: Turns random bits into integers of 0..bound-1.
      config: The game.
      bits: `[b num_draws]`.

    Returns:
      video uint8 [b t h w 2], label int32 [b], frame_label int32 [b t], the place that the cup with
      the ball is nearest to, and ball float32 [b t 2], the centre of this cup (y, x in fractions of
      the frame).
    """
    s, size = config.num_swaps, config.frame_size
    ball = below(bits[:, 0], config.num_cups)
    pair = below(bits[:, 1 : 1 + s], len(config.pairs))  # [b s]
    start = below(bits[:, 1 + s :], config.share - config.swap_frames + 1)

    # The place of each cup before each swap, [b s cup], and of the ball at the end.
    left, right = xp.asarray(config.pairs).T
    cups: Any = xp.broadcast_to(xp.arange(config.num_cups), (len(bits), config.num_cups))
    before = []
    for swap in range(s):
        before.append(cups)
        i, j = left[pair[:, swap], None], right[pair[:, swap], None]
        cups = xp.where(cups == i, j, xp.where(cups == j, i, cups))
    label = xp.take_along_axis(cups, ball[:, None], axis=1)[:, 0]

    # Which swap a frame belongs to, and how far that has got.
    time = np.arange(config.num_frames) - SHOWN
    now = np.clip(time // config.share, 0, s - 1)  # [t]
    phase = xp.clip(time - now * config.share - start[:, now] + 1, 0, config.swap_frames)
    paths = xp.asarray(_paths(config))  # [pair phase place 2]
    places = paths[pair[:, now, None], phase[..., None], xp.stack(before, 1)[:, now]]
    held = xp.take_along_axis(places, ball[:, None, None, None], axis=2)[:, :, 0]  # [b t 2]

    kinds = xp.zeros((len(bits), 1), np.int32), xp.ones((len(bits), config.num_cups), np.int32)
    drawn = [
        object_maps.draw(xp, where, kind, len(KINDS), size)
        for where, kind in zip((held[:, :, None], places), kinds, strict=True)
    ]
    shown = (time < 0)[:, None, None, None]
    center = (held + object_maps.CELL / 2) / (size * object_maps.CELL)
    nearest = (
        (2 * held[..., 1] + object_maps.CELL) * config.num_cups // (2 * size * object_maps.CELL)
    )
    return {
        "video": xp.where(shown, drawn[0], 0) + drawn[1],
        "label": label.astype(np.int32),
        "frame_label": nearest.astype(np.int32),
        "ball": center.astype(np.float32),
    }


def _paths(config: CupsConfig) -> np.ndarray:
    """Where the cup of each place is in each phase of each swap, int32 [pair phase place 2].

    Units are those of `object_maps.draw`.
    """
    size, m = config.frame_size * object_maps.CELL, config.swap_frames
    columns = (np.arange(config.num_cups) + 0.5) * size / config.num_cups
    waiting = np.stack([np.full(config.num_cups, size / 2), columns], axis=-1)
    paths = np.tile(waiting, (len(config.pairs), m + 1, 1, 1))
    angle = np.pi * np.arange(m + 1) / m
    for path, (i, j) in zip(paths, config.pairs, strict=True):
        middle, radius = (columns[i] + columns[j]) / 2, (columns[j] - columns[i]) / 2
        circle = radius * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
        center = np.array([size / 2, middle])
        path[:, i], path[:, j] = center - circle, center + circle  # the left one above
    return np.rint(paths - object_maps.CELL / 2).astype(np.int32)
