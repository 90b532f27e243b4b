"""Collisions: discs bounce off each other and off the walls. Which two touched first?

Made while they are needed. The label of the question "first" is the pair of the first touch, or
none; all later touches are of no account, so it must be kept from then on. By symmetry every pair
is equally likely. The question "touch" is whether the first two discs ever touch.

The discs are alike in size and mass and are told apart by the channel of their map
(`rstg_jax.data.object_maps`). A touch turns the velocities of two discs as in a game of billiards.
Everything is computed in integers, so that the same videos come out on every machine.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import humanize
import numpy as np

from rstg_jax.data import object_maps, random_stream
from rstg_jax.data.batches import Batch, Source
from rstg_jax.data.dataset import DataConfig, check_split
from rstg_jax.data.online import OnlineVideos
from rstg_jax.data.video import decode
from rstg_jax.errors import UserError

STEPS = 4  # of the simulation in a frame
FINE = 16  # units of the simulation in a unit of a map
CELL = FINE * object_maps.CELL  # and in a cell
DIRECTIONS = 256  # in which discs start
NONE = -1  # in place of a pair that touched


@dataclasses.dataclass(frozen=True)
class CollisionsConfig(DataConfig):
    """Discs in a box.

    Attributes:
      question: "first": which two touched first? Labels are the pairs, and "none". "touch": do the
        first two ever touch? Labels are "no" and "yes".
      num_discs: Discs, each with a channel of its own.
      num_frames: Frames of a video.
      radius: Of a disc, in cells.
      speed: Of a disc at the start, in cells per frame.
      frame_size: Rows and columns of a frame, in cells of a map.
      num_test: Videos of the test split; training has no end.
      seed: Of the videos, 0..2**64 - 1.
    """

    question: Literal["first", "touch"] = "first"
    num_discs: int = 3
    num_frames: int = 128
    radius: float = 1.0
    speed: float = 0.5
    frame_size: int = 8
    num_test: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        random_stream.check_seed(self.seed)
        least = {"num_discs": 2, "num_frames": 3, "num_test": 1, "frame_size": 4}
        for key, value in least.items():
            if getattr(self, key) < value:
                raise UserError(f"{key}={getattr(self, key)} must be at least {value}")
        if self.radius < 0.25 or self.block < 2 * self.radius:
            raise UserError(
                f"radius={self.radius:g} must be at least 0.25 and leave room for {self.num_discs} "
                f"discs in a row of {self.frame_size} cells"
            )
        if not 0 < self.speed <= self.radius:
            raise UserError(f"speed={self.speed:g} must be above 0 and at most radius")

    @property
    def blocks(self) -> int:
        """Rows and columns of the blocks in which discs start, one in each at most."""
        return int(np.ceil(np.sqrt(self.num_discs)))

    @property
    def block(self) -> float:
        """Side of a block, in cells."""
        return (self.frame_size - 1) / self.blocks

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Pairs of discs, in the order of the labels."""
        return tuple(itertools.combinations(range(self.num_discs), 2))

    @property
    def num_draws(self) -> int:
        """32-bit random numbers that one video owns."""
        return self.blocks**2 + 3 * self.num_discs

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        return (self.num_frames, self.frame_size, self.frame_size, self.num_discs)

    @property
    def num_classes(self) -> int:
        return len(self.label_names)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels."""
        if self.question == "touch":
            return ("no", "yes")
        return (*(f"{i + 1} and {j + 1}" for i, j in self.pairs), "none")

    def open(self, split: str) -> Source:
        check_split(split)
        return OnlineVideos(self, split, "Collisions", self.label_names, make_videos)

    def read_video(self, frames: decode.Frames) -> np.ndarray:
        raise UserError("frames of Collisions are no pictures: no video can be turned into them")

    def describe(
        self, label_names: Sequence[str], provenance: Mapping[str, Mapping[str, Any]]
    ) -> tuple[str, ...]:
        del label_names, provenance
        number = humanize.apnumber(self.num_discs).capitalize()
        asked = {
            "first": "names the two that touched first",
            "touch": "says whether the first two ever touch",
        }
        return (
            f"{number} discs bounce off each other and off the walls of a box. The network is "
            f"shown the video and {asked[self.question]}.",
        )

    def decisive_boxes(self, batch: Mapping[str, np.ndarray], row: int) -> np.ndarray | None:
        """Boxes of the two discs in question, `[t 2 4]`."""
        if "place" not in batch or batch["pair"][row] == NONE:
            return None
        pair = self.pairs[batch["pair"][row]]
        center, half = batch["place"][row][:, pair], self.radius / self.frame_size
        return np.concatenate([center - half, center + half], axis=-1)


class Scene(NamedTuple):
    """The events of some videos.

    Attributes:
      places: Centres of the discs in every frame, int64 `[b t discs 2]`, (row, column) in units of
        1/`CELL` cell from the middle of the first cell.
      first_touch: Frame before the first touch of each pair, int64 `[b pairs]`; -1 for none.
      first_pair: The pair that touches first, int64 `[b]`; `NONE` if none does.
    """

    places: np.ndarray
    first_touch: np.ndarray
    first_pair: np.ndarray


def make_videos(config: CollisionsConfig, bits: np.ndarray) -> Batch:
    """Videos from random bits.

    Args:
      config: The box.
      bits: `[b num_draws]`.

    Returns:
      video uint8 [b t h w discs], label int32 [b], place float32 [b t discs 2], the centres (y, x
      in fractions of the frame), and pair int32 [b], the pair in question.
    """
    scene = simulate(config, *start(config, bits))
    kinds = np.broadcast_to(np.arange(config.num_discs), (len(bits), config.num_discs))
    places = scene.places // FINE
    touched = (scene.first_touch >= 0)[:, 0]
    if config.question == "touch":
        pair, label = np.zeros(len(bits), np.int32), touched
    else:
        pair = scene.first_pair
        label = np.where(pair == NONE, len(config.pairs), pair)
    return {
        "video": object_maps.draw(np, places, kinds, config.num_discs, config.frame_size),
        "label": label.astype(np.int32),
        "place": ((scene.places / CELL + 0.5) / config.frame_size).astype(np.float32),
        "pair": pair.astype(np.int32),
    }


def start(config: CollisionsConfig, bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where discs are at first and how they move, so that none touches another or a wall.

    Args:
      config: The box.
      bits: `[b num_draws]`.

    Returns:
      Places and velocities per step, int64 `[b discs 2]`, in units of 1/`CELL` cell.
    """
    n, squares = config.num_discs, config.blocks**2
    chosen = np.argsort(bits[:, :squares], axis=1, kind="stable")[:, :n]  # a block for each disc
    corner = np.stack(np.divmod(chosen, config.blocks), axis=-1) * config.block
    slack = random_stream.below(
        bits[:, squares : squares + 2 * n], int((config.block - 2 * config.radius) * CELL) + 1
    )
    corner = np.rint((corner + config.radius) * CELL).astype(np.int64)
    angle = 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    unit = np.stack([np.sin(angle), np.cos(angle)], axis=-1) * config.speed * CELL / STEPS
    direction = random_stream.below(bits[:, squares + 2 * n :], DIRECTIONS)
    return corner + slack.reshape(-1, n, 2), np.rint(unit).astype(np.int64)[direction]


def simulate(config: CollisionsConfig, places: np.ndarray, velocities: np.ndarray) -> Scene:
    """Moves discs, and exchanges their momentum when they touch.

    A touch of which the video does not show what comes of it is none.

    Args:
      config: The box.
      places: In the first frame, int64 `[b discs 2]`, see `Scene`.
      velocities: Per step, alike.
    """
    i, j = np.array(config.pairs).T
    # [pairs discs]: what one disc of a pair gains, the other loses.
    disc = np.eye(config.num_discs, dtype=np.int64)
    gains = disc[i] - disc[j]
    wall, touching = (config.frame_size - 1) * CELL, int(2 * config.radius * CELL) ** 2
    first_pair = np.full(len(places), NONE)
    first_touch = np.full((len(places), len(i)), -1)
    shown = []
    for frame in range(config.num_frames):
        shown.append(places)
        seen = frame + 2 < config.num_frames  # two frames show how the discs move afterwards
        for _ in range(STEPS):
            places = places + velocities
            outside = (places < 0) | (places > wall)
            velocities = np.where(outside, -velocities, velocities)
            places = wall - abs(wall - abs(places))  # the mirror image of what is outside
            apart, closing = places[:, j] - places[:, i], velocities[:, j] - velocities[:, i]
            distance = (apart**2).sum(-1)
            approach = (apart * closing).sum(-1)
            touch = (distance <= touching) & (approach < 0)  # [b pairs]
            if not touch.any():
                continue
            scale = np.where(touch, approach, 0)[..., None] * apart
            push = np.round(scale / np.maximum(distance, 1)[..., None]).astype(np.int64)
            velocities = velocities + np.einsum("bpx,pn->bnx", push, gains)
            new = touch.any(axis=1) & (first_pair == NONE) & seen
            first_pair = np.where(new, touch.argmax(axis=1), first_pair)
            first_touch = np.where(touch & (first_touch < 0) & seen, frame, first_touch)
    return Scene(np.stack(shown, axis=1), first_touch, first_pair)
