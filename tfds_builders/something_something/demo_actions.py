"""Twelve actions of Something-Something as moving drawings.

Ten of them are five pairs in which one action is the other run backwards: a clip of the second
comes from the same spec as a clip of the first and has its frames in the opposite order, light,
shaking hands and all. A single frame therefore says nothing about which of the two it is from. In
the last pair, putting something next to something and pretending to, the clips are alike until
the hand goes away, with or without what it brought.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from tfds_builders.something_something import demo_drawing
from tfds_builders.something_something.demo_drawing import Layer, Random, Scene

FPS = 12
FRAMES = (18, 60)  # fewest and most frames of a clip
PORTRAIT = 0.1  # share of clips that are higher than wide
LONGEST_REST = 0.25  # share of the clip
SHORTEST_REACH = 0.12  # share of the clip; in a shorter rest the hand stays where it is


@dataclasses.dataclass
class Stage:
    """Where a scene is being set up; lengths in units of the short side.

    Attributes:
      rng: Source of everything random.
      size: Width and height of a frame in pixels.
      progress: float [t], from 0 to 1.
      rests: Shares of the clip at the beginning and at the end in which nothing progresses.
      layers: What has been placed so far, the lowest first.
      names: Names of the objects so far.
      pan: How far the camera turns to either side.
    """

    rng: Random
    size: tuple[int, int]
    progress: np.ndarray
    rests: tuple[float, float]
    layers: list[Layer] = dataclasses.field(default_factory=list)
    names: set[str] = dataclasses.field(default_factory=set)
    pan: float = 0.0

    @property
    def pixels(self) -> int:
        """Pixels of one unit."""
        return min(self.size)

    def path(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """From start to end as the clip progresses, not quite straight; float [t 2]."""
        straight = start + self.progress[:, None] * (end - start)
        return straight + sway(self.rng, len(self.progress), 0.012)

    def still(self, place: np.ndarray) -> np.ndarray:
        """A path that stays; float [t 2]."""
        return np.tile(place, (len(self.progress), 1))

    def thing(self, path: np.ndarray, diameter: float) -> str:
        """Adds an object and returns its name."""
        name, sprite = demo_drawing.thing(self.rng, diameter, self.pixels, self.names)
        self._add(sprite, path)
        return name

    def cloth(self, path: np.ndarray, diameter: float) -> str:
        """Adds something to cover others with and returns its name."""
        name, sprite = demo_drawing.cloth(self.rng, diameter, self.pixels, self.names)
        self._add(sprite, path)
        return name

    def _add(self, sprite: Image.Image, path: np.ndarray) -> None:
        angle = self.rng.uniform(-0.4, 0.4) + sway(self.rng, len(path), 0.06)[:, 0]
        self.layers.append(Layer(sprite, (sprite.width / 2, sprite.height / 2), path, angle))

    def hand(self, path: np.ndarray, direction: float, *, comes_and_goes: bool = True) -> None:
        """Adds a hand with its fingertips on a path, its arm towards `direction`.

        In some clips it comes while nothing moves yet, in some it leaves when nothing moves any
        more.
        """
        sprite, tips = demo_drawing.hand(self.rng, self.pixels)
        t = len(path)
        away = np.zeros(t)
        if comes_and_goes:
            for rest, order in zip(self.rests, (1, -1), strict=True):
                if rest > SHORTEST_REACH:
                    nearer = smooth((np.linspace(0, 1, t) / rest).clip(0, 1))
                    away += (1 - nearer)[::order] * self.rng.uniform(0.3, 0.7)
        arm = np.array([math.cos(direction), math.sin(direction)])
        angle = direction + sway(self.rng, t, 0.05)[:, 0]
        self.layers.append(Layer(sprite, tips, path + away[:, None] * arm, angle))


def smooth(x: np.ndarray) -> np.ndarray:
    """0..1 -> 0..1 with no speed at the ends."""
    return x * x * (3 - 2 * x)


def sway(rng: Random, frames: int, amount: float) -> np.ndarray:
    """A slow wandering about 0 with this standard deviation; float [t 2]."""
    t = np.arange(frames)[:, None, None] / FPS
    rate = rng.uniform(0.2, 1.2, (1, 2, 4))
    phase = rng.uniform(0, 2 * math.pi, (1, 2, 4))
    return amount / math.sqrt(2) * np.sin(2 * math.pi * rate * t + phase).sum(-1)


def _stage(rng: Random, size: tuple[int, int]) -> Stage:
    frames = int(rng.integers(FRAMES[0], FRAMES[1] + 1))
    first, last = rng.uniform(0, LONGEST_REST, 2).tolist()
    x = ((np.linspace(0, 1, frames) - first) / (1 - first - last)).clip(0, 1)
    share = rng.uniform(0, 1)
    return Stage(rng, size, share * smooth(x) + (1 - share) * x, (first, last))


def _around(rng: Random, spread: float) -> np.ndarray:
    """A place about the middle of the frame."""
    return rng.uniform(-spread, spread, 2)


def _turned(angle: float) -> np.ndarray:
    return np.array([math.cos(angle), math.sin(angle)])


# ---------------------------------------------------------------- actions
# Each sets the stage, moves forwards and returns the names that fill the template.


def _carry(stage: Stage, way: np.ndarray) -> list[str]:
    """An object is moved along `way`; the hand may hold it at any side."""
    rng = stage.rng
    diameter = rng.uniform(0.24, 0.38)
    middle, half = _around(rng, 0.1), way * rng.uniform(0.18, 0.3)
    path = stage.path(middle - half, middle + half)
    name = stage.thing(path, diameter)
    direction = rng.uniform(0, 2 * math.pi)
    stage.hand(path + _turned(direction) * diameter * rng.uniform(0.25, 0.5), direction)
    return [name]


def _down(stage: Stage) -> list[str]:
    return _carry(stage, _turned(math.pi / 2 + stage.rng.uniform(-0.25, 0.25)))


def _left_to_right(stage: Stage) -> list[str]:
    return _carry(stage, _turned(stage.rng.uniform(-0.25, 0.25)))


def _closer(stage: Stage) -> list[str]:
    rng = stage.rng
    middle, way = _around(rng, 0.08), _turned(rng.uniform(0, 2 * math.pi))
    diameters = rng.uniform(0.2, 0.3, 2)
    near, far = diameters.sum() / 4 + rng.uniform(0, 0.02), rng.uniform(0.36, 0.42)
    paths = [stage.path(middle + side * way * far, middle + side * way * near) for side in (-1, 1)]
    names = [stage.thing(path, d) for path, d in zip(paths, diameters, strict=True)]
    for path, diameter, side in zip(paths, diameters, (-1, 1), strict=True):
        turn = rng.uniform(-0.5, 0.5)
        direction = math.atan2(side * way[1], side * way[0]) + turn
        stage.hand(path + _turned(direction) * diameter * 0.4, direction)
    return names


def _cover(stage: Stage) -> list[str]:
    rng = stage.rng
    place = _around(rng, 0.15)
    diameter = rng.uniform(0.22, 0.32)
    name = stage.thing(stage.still(place), diameter)
    direction = rng.uniform(0, 2 * math.pi)
    size = diameter * rng.uniform(1.35, 1.6)
    beside = place + _turned(direction + rng.uniform(-0.6, 0.6)) * rng.uniform(0.5, 0.65)
    path = stage.path(beside, place)
    cover = stage.cloth(path, size)
    stage.hand(path + _turned(direction) * size * 0.35, direction)
    return [name, cover]


def _uncover(stage: Stage) -> list[str]:
    return _cover(stage)[:1]


def _camera_left(stage: Stage) -> list[str]:
    rng = stage.rng
    stage.pan = rng.uniform(0.25, 0.4)
    name = stage.thing(stage.still(_around(rng, 0.12)), rng.uniform(0.28, 0.42))
    if rng.random() < 0.3:
        direction = rng.uniform(0.2, math.pi - 0.2)
        path = stage.layers[-1].path + _turned(direction) * rng.uniform(0.1, 0.2)
        stage.hand(path, direction, comes_and_goes=False)
    return [name]


def _beside(stage: Stage, *, pretending: bool) -> list[str]:
    rng = stage.rng
    diameters = rng.uniform(0.22, 0.32, 2)
    direction = rng.uniform(0, 2 * math.pi)
    place = _around(rng, 0.1) - _turned(direction) * 0.15
    side = _turned(direction + rng.uniform(-1.2, 1.2))
    goal = place + side * (diameters.sum() / 2 + rng.uniform(0.01, 0.04))
    start = goal + _turned(direction) * rng.uniform(0.5, 0.75)
    # There by `arrival`, away again from `departure` on.
    arrival = rng.uniform(0.3, 0.45)
    departure = arrival + rng.uniform(0.1, 0.25)
    t = np.linspace(0, 1, len(stage.progress))
    there, back = smooth((t / arrival).clip(0, 1)), smooth(((t - departure) / 0.3).clip(0, 1))
    coming = start + there[:, None] * (goal - start)
    hand = coming + back[:, None] * (start - goal) + sway(rng, len(t), 0.008)
    other = stage.thing(stage.still(place), diameters[1])
    name = stage.thing(hand if pretending else coming, diameters[0])
    grip = _turned(direction) * diameters[0] * rng.uniform(0.25, 0.45)
    stage.hand(hand + grip, direction, comes_and_goes=False)
    return [name, other]


def _put_beside(stage: Stage) -> list[str]:
    return _beside(stage, pretending=False)


def _pretend_to_put_beside(stage: Stage) -> list[str]:
    return _beside(stage, pretending=True)


@dataclasses.dataclass(frozen=True)
class Action:
    """A class of the demo data.

    Attributes:
      template: Its name in Something-Something, with brackets.
      act: Sets the stage and returns names for the brackets.
      backwards: The frames are in the opposite order.
    """

    template: str
    act: Callable[[Stage], list[str]]
    backwards: bool = False

    @property
    def name(self) -> str:
        """The template without brackets."""
        return self.template.replace("[", "").replace("]", "")

    def caption(self, placeholders: list[str]) -> str:
        """The template filled in, as annotators write it."""
        text = self.template[0].lower() + self.template[1:]
        for name in placeholders:
            text = text.replace("[something]", name, 1)
        return text


PAIRS: tuple[tuple[Action, Action], ...] = (
    (Action("Moving [something] down", _down), Action("Moving [something] up", _down, True)),
    (
        Action("Pushing [something] from left to right", _left_to_right),
        Action("Pushing [something] from right to left", _left_to_right, True),
    ),
    (
        Action("Moving [something] and [something] closer to each other", _closer),
        Action("Moving [something] and [something] away from each other", _closer, True),
    ),
    (
        Action("Covering [something] with [something]", _cover),
        Action("Uncovering [something]", _uncover, True),
    ),
    (
        Action("Turning the camera left while filming [something]", _camera_left),
        Action("Turning the camera right while filming [something]", _camera_left, True),
    ),
    (
        Action("Putting [something] next to [something]", _put_beside),
        Action("Pretending to put [something] next to [something]", _pretend_to_put_beside),
    ),
)
ACTIONS = tuple(sorted((a for pair in PAIRS for a in pair), key=lambda action: action.name))


def video(action: Action, rng: Random, height: int) -> tuple[np.ndarray, list[str]]:
    """A clip, uint8 [t h w 3], and the names of what is in it, in the template's order."""
    # Codecs like even sides.
    aspect = rng.choice([4 / 3, 16 / 9]) if rng.random() >= PORTRAIT else 9 / 16
    size = (2 * round(height * aspect / 2), height)
    stage = _stage(rng, size)
    frames = len(stage.progress)
    names = action.act(stage)
    camera = sway(rng, frames, rng.uniform(0.003, 0.015))
    if stage.pan:
        camera[:, 0] += stage.pan * (1 - 2 * stage.progress)
    cast = rng.uniform(0.85, 1.1, 3)
    light = cast * (1 + sway(rng, frames, rng.uniform(0, 0.06))[:, :1])
    scene = Scene(
        size=size,
        background=demo_drawing.background(rng, size, stage.pan),
        layers=[*_distractors(stage), *stage.layers],
        camera=camera,
        light=light,
        noise=rng.uniform(1, 7),
    )
    return (scene.reversed() if action.backwards else scene).frames(rng), names


def _distractors(stage: Stage) -> list[Layer]:
    """Up to two small things that lie about, under everything else."""
    rng = stage.rng
    crowd = dataclasses.replace(stage, layers=[])
    for _ in range(rng.integers(3)):
        place = _turned(rng.uniform(0, 2 * math.pi)) * rng.uniform(0.35, 0.6)
        crowd.thing(crowd.still(place), rng.uniform(0.12, 0.2))
    return [
        dataclasses.replace(layer, angle=layer.angle[:1].repeat(len(layer.path)))
        for layer in crowd.layers
    ]
