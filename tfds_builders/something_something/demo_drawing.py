"""Draws the frames of the demo clips: backgrounds, objects, hands, light and camera noise.

Lengths are in units of the shorter side of a frame, angles in radians, x to the right and y down;
the origin is the middle of the frame. A sprite is a picture at the size in which it appears, with
colours multiplied by alpha (mode RGBa): resampling wants them so, and Pillow would convert anything
else for every frame again.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

Random = np.random.Generator
Point = tuple[float, float]

COLORS = {
    "red": (205, 35, 40),
    "orange": (240, 130, 20),
    "yellow": (245, 215, 40),
    "green": (40, 160, 60),
    "blue": (35, 85, 210),
    "purple": (130, 50, 170),
    "pink": (245, 120, 175),
    "white": (240, 240, 240),
    "black": (35, 35, 38),
    "turquoise": (40, 190, 190),
}
_SKIN = ((255, 220, 190), (235, 190, 150), (200, 145, 105), (150, 100, 70), (95, 62, 45))
_SMOOTHING = 3  # sprites are drawn this much larger
_MARGIN = 0.12  # background beyond the frame, for a camera that shakes
_SPAN_OF_OBJECT = 1.3  # sprite over diameter: corners of boxes and tips of stars reach out
_REACH = 1.8  # length of hand and arm
_NOISE_STEPS = 64  # places of the noise in each direction


@dataclasses.dataclass(frozen=True)
class Layer:
    """One thing in a clip.

    Attributes:
      sprite: RGBa.
      pivot: The point (x, y) of the sprite, in pixels, that follows the path.
      path: float [t 2], (x, y) in units of the short side.
      angle: float [t], turned clockwise.
    """

    sprite: Image.Image
    pivot: Point
    path: np.ndarray
    angle: np.ndarray


@dataclasses.dataclass(frozen=True)
class Scene:
    """A clip before it is drawn, t frames.

    Attributes:
      size: Width and height in pixels.
      background: RGB; its middle is the origin.
      layers: The lowest first.
      camera: float [t 2], the point that the middle of the frame shows.
      light: float [t 3], factors of red, green and blue.
      noise: Standard deviation of the noise of a pixel, 0..255.
    """

    size: tuple[int, int]
    background: Image.Image
    layers: Sequence[Layer]
    camera: np.ndarray
    light: np.ndarray
    noise: float

    @property
    def pixels(self) -> int:
        """Pixels of one unit of length."""
        return min(self.size)

    def reversed(self) -> "Scene":
        """The same scene, its last frame first."""
        layers = [
            dataclasses.replace(layer, path=layer.path[::-1], angle=layer.angle[::-1])
            for layer in self.layers
        ]
        return dataclasses.replace(
            self, layers=layers, camera=self.camera[::-1], light=self.light[::-1]
        )

    def frames(self, rng: Random) -> np.ndarray:
        """Draws the clip, uint8 [t h w 3]; the noise is drawn from `rng`."""
        width, height = self.size
        # A window at random places of one large field is five times as fast as a field a frame.
        shape = (height + _NOISE_STEPS, width + _NOISE_STEPS, 3)
        field = self.noise * rng.standard_normal(shape, np.float32)
        frames = np.empty((len(self.camera), height, width, 3), np.uint8)
        for t, (y, x) in enumerate(rng.integers(_NOISE_STEPS, size=(len(frames), 2))):
            values = np.asarray(self._frame(t), np.float32) * self.light[t].astype(np.float32)
            values += field[y : y + height, x : x + width]
            frames[t] = values.clip(0, 255)
        return frames

    def _frame(self, t: int) -> Image.Image:
        corner = np.array(self.size) / 2
        x, y = np.array(self.background.size) / 2 - corner + self.camera[t] * self.pixels
        frame = self.background.transform(
            self.size, Image.Transform.AFFINE, (1, 0, x, 0, 1, y), Image.Resampling.BILINEAR
        )
        for layer in self.layers:
            place = corner + (layer.path[t] - self.camera[t]) * self.pixels
            _paste(frame, layer, place, layer.angle[t])
        return frame


def _paste(frame: Image.Image, layer: Layer, place: np.ndarray, angle: float) -> None:
    """Draws a sprite with its pivot at a place (x, y) of the frame, in pixels."""
    cos, sin = math.cos(angle), math.sin(angle)
    left, top = -layer.pivot[0], -layer.pivot[1]
    right, bottom = left + layer.sprite.width, top + layer.sprite.height
    corners = np.array([(left, top), (right, top), (left, bottom), (right, bottom)])
    corners = place + corners @ np.array([(cos, sin), (-sin, cos)])
    low = np.maximum(np.floor(corners.min(0)), 0).astype(int)
    high = np.minimum(np.ceil(corners.max(0)), frame.size).astype(int)
    if (low >= high).any():
        return
    x, y = low - place
    coefficients = (cos, sin, cos * x + sin * y - left, -sin, cos, cos * y - sin * x - top)
    width, height = (high - low).tolist()
    part = layer.sprite.transform(
        (width, height), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
    ).convert("RGBA")
    frame.paste(part, tuple(low.tolist()), part)


# ---------------------------------------------------------------- backgrounds


def background(rng: Random, size: tuple[int, int], pan: float) -> Image.Image:
    """A muted surface with a pattern, light from one side, and perhaps a wall behind it.

    Args:
      rng: Source of everything random.
      size: Width and height of a frame in pixels.
      pan: How far the camera turns to either side, in units of the short side.
    """
    pixels = min(size)
    width = size[0] + 2 * round((pan + _MARGIN) * pixels)
    height = size[1] + 2 * round(_MARGIN * pixels)
    y, x = np.mgrid[:height, :width].astype(np.float32) / pixels
    picture = _muted(rng) + _pattern(rng, x, y)[..., None] * rng.uniform(8, 28)
    if rng.random() < 0.5:
        horizon = height / pixels * rng.uniform(0.15, 0.4)
        wall = _muted(rng) + _pattern(rng, x, y)[..., None] * rng.uniform(4, 16)
        picture = np.where((y < horizon)[..., None], wall, picture)
    picture *= 1 + _clouds(rng, height, width, pixels)[..., None] * 0.15
    picture *= 1 + rng.uniform(-0.2, 0.2) * (x - x.mean())[..., None]
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def _muted(rng: Random) -> np.ndarray:
    return (rng.uniform(60, 200) + rng.uniform(-28, 28, 3)).astype(np.float32)


def _pattern(rng: Random, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values of about -1..1: planks, tiles, spots, cloth or nothing."""
    angle = rng.uniform(0, math.pi)
    u = x * math.cos(angle) + y * math.sin(angle)
    v = y * math.cos(angle) - x * math.sin(angle)
    step = rng.uniform(0.1, 0.4)
    kind = rng.integers(5)
    if kind == 0:
        return np.sin(2 * math.pi * u / step + 2 * np.sin(v / step))
    if kind == 1:
        return np.where((np.floor(u / step) + np.floor(v / step)) % 2, 1.0, -1.0)
    if kind == 2:
        return np.sin(2 * math.pi * u / step) * np.sin(2 * math.pi * v / step)
    if kind == 3:
        return np.where(u / step % 1 < 0.15, -1.0, 0.3)
    return np.zeros_like(x)


def _clouds(rng: Random, height: int, width: int, pixels: int) -> np.ndarray:
    """Smooth noise with spots of about a fifth of the frame."""
    shape = (2 + 5 * height // pixels, 2 + 5 * width // pixels)
    small = Image.fromarray(rng.standard_normal(shape, np.float32))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


# ---------------------------------------------------------------- objects


def regular(corners: int, inner: float = 1.0) -> list[Point]:
    """A polygon of radius 1; with `inner` below 1 every other corner lies there: a star."""
    turns = [2 * math.pi * k / corners - math.pi / 2 for k in range(corners)]
    radii = [inner if k % 2 else 1.0 for k in range(corners)]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, turns, strict=True)]


_OUTLINES: dict[str, list[list[Point]]] = {
    "ball": [regular(40)],
    "box": [[(-0.9, -0.75), (0.9, -0.75), (0.9, 0.75), (-0.9, 0.75)]],
    "triangle": [regular(3)],
    "star": [regular(10, 0.45)],
    "block": [regular(6)],
    "cup": [
        [(-0.75, -0.9), (0.55, -0.9), (0.4, 0.9), (-0.6, 0.9)],
        [(0.4, -0.5), (1.0, -0.4), (0.9, 0.4), (0.3, 0.5)],
    ],
    "bottle": [
        [(-0.5, -0.25), (0.5, -0.25), (0.5, 1.1), (-0.5, 1.1)],
        [(-0.22, -1.1), (0.22, -1.1), (0.22, 0), (-0.22, 0)],
    ],
    "cross": [
        [(-1, -0.35), (1, -0.35), (1, 0.35), (-1, 0.35)],
        [(-0.35, -1), (0.35, -1), (0.35, 1), (-0.35, 1)],
    ],
}
SHAPES = tuple(_OUTLINES)


def sprite_of(
    rng: Random, outlines: Sequence[Sequence[Point]], color: str, pixels: int
) -> Image.Image:
    """A painted shape whose outlines have radius 1; the sprite reaches a little further.

    Args:
      rng: Draws pattern, shade and light.
      outlines: Polygons, filled one over the other.
      color: A name of `COLORS`.
      pixels: Diameter of the shape.
    """
    side = math.ceil(pixels * _SPAN_OF_OBJECT)
    mask = Image.new("L", (side * _SMOOTHING, side * _SMOOTHING))
    draw = ImageDraw.Draw(mask)
    radius, middle = pixels * _SMOOTHING / 2, side * _SMOOTHING / 2
    for outline in outlines:
        draw.polygon([(middle + radius * x, middle + radius * y) for x, y in outline], fill=255)
    mask = mask.reduce(_SMOOTHING)
    y, x = (np.mgrid[:side, :side].astype(np.float32) - side / 2) / (pixels / 2)
    paint = np.broadcast_to(np.array(COLORS[color], np.float32), (side, side, 3))
    paint = paint + _pattern(rng, x / 2, y / 2)[..., None] * rng.choice([0.0, 22.0, 40.0])
    paint = paint * (1 - 0.22 * (x + y))[..., None] * rng.uniform(0.85, 1.1)
    rgba = np.dstack([paint.clip(0, 255), np.asarray(mask)]).astype(np.uint8)
    return Image.fromarray(rgba).convert("RGBa")


def thing(rng: Random, diameter: float, pixels: int, taken: set[str]) -> tuple[str, Image.Image]:
    """An object of a name that is not `taken`, such as "a red ball", and its sprite."""
    while True:
        color, shape = str(rng.choice(list(COLORS))), str(rng.choice(SHAPES))
        if not any(color in name or shape in name for name in taken):
            break
    name = f"{'an' if color == 'orange' else 'a'} {color} {shape}"
    taken.add(name)
    return name, sprite_of(rng, _OUTLINES[shape], color, round(diameter * pixels))


def cloth(rng: Random, diameter: float, pixels: int, taken: set[str]) -> tuple[str, Image.Image]:
    """Something large to cover other things with."""
    used = {color for color in COLORS for name in taken if color in name}
    color = str(rng.choice([c for c in COLORS if c not in used]))
    kinds: dict[str, Callable[[], list[Point]]] = {
        "towel": lambda: [(-1, -0.85), (1, -0.95), (0.95, 0.9), (-0.95, 0.85)],
        "plate": lambda: regular(40),
        "sheet": lambda: [
            (rng.uniform(0.92, 1.05) * x, rng.uniform(0.92, 1.05) * y) for x, y in regular(12)
        ],
    }
    kind = str(rng.choice(list(kinds)))
    name = f"{'an' if color == 'orange' else 'a'} {color} {kind}"
    taken.add(name)
    return name, sprite_of(rng, [kinds[kind]()], color, round(diameter * pixels))


def hand(rng: Random, pixels: int) -> tuple[Image.Image, Point]:
    """A hand at the end of an arm that points to the right, and the place of its fingertips."""
    size = rng.uniform(0.85, 1.15) * pixels * _SMOOTHING
    skin = np.array(_SKIN[rng.integers(len(_SKIN))]) * rng.uniform(0.9, 1.05)
    sleeve = np.array(COLORS[str(rng.choice(list(COLORS)))]) * 0.8
    length, breadth = (math.ceil(v * size / _SMOOTHING) * _SMOOTHING for v in (_REACH, 0.5))
    picture = Image.new("RGB", (length, breadth), _rgb(skin))
    mask = Image.new("L", picture.size)

    def capsule(start: Point, end: Point, width: float, color: np.ndarray) -> None:
        points = [(size * x, size * y + breadth / 2) for x, y in (start, end)]
        half = size * width / 2
        for draw, fill in ((ImageDraw.Draw(picture), _rgb(color)), (ImageDraw.Draw(mask), 255)):
            draw.line(points, fill=fill, width=round(2 * half))
            for x, y in points:
                draw.ellipse((x - half, y - half, x + half, y + half), fill)

    capsule((0.4, 0.0), (_REACH, rng.uniform(-0.1, 0.1)), 0.15, skin)
    capsule((0.62, 0.0), (_REACH, 0.0), 0.22, sleeve)
    fingers = rng.integers(2, 5)
    for k in range(fingers):
        spread = (k - (fingers - 1) / 2) * 0.065
        tip = (0.035 + abs(spread) * 0.4, spread * 0.8)
        capsule(tip, (0.28, spread), 0.06, skin * (0.88 + 0.06 * (k % 3)))
    capsule((0.26, -0.03), (0.36, 0.03), 0.19, skin)
    sprite = picture.reduce(_SMOOTHING)
    sprite.putalpha(mask.reduce(_SMOOTHING))
    return sprite.convert("RGBa"), (0.0, sprite.height / 2)


def _rgb(color: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = color.clip(0, 255).astype(int).tolist()
    return red, green, blue
