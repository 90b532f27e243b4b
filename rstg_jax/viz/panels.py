"""Draws the frames of test videos with their predictions: panels, and still sheets of several."""

import colorsys
import dataclasses
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rstg_jax import files
from rstg_jax.errors import UserError
from rstg_jax.viz.draw_graph import GROUND, Color, draw_attention

if TYPE_CHECKING:  # so that drawing frames does not load JAX
    from rstg_jax.rstg.region_graph import Graph

PAIR_COLOR: Color = (86, 211, 155)
TEXT: Color = (230, 232, 236)
MUTED: Color = (152, 162, 179)
RIGHT_COLOR: Color = (86, 211, 155)
WRONG_COLOR: Color = (255, 122, 89)
PICTURE_EXAMPLES, PICTURE_COLUMNS = 3, 6  # videos in a picture, frames of each
PICTURE_SIDE = 180  # height of its frames in pixels


@dataclasses.dataclass(frozen=True)
class Example:
    """A video and the network's prediction.

    Attributes:
      video: uint8 `[t h w c]`, c is 1 or 3.
      labels: Indices of the true classes: one, unless a video may have several.
      probabilities: Of all classes, float `[classes]`.
      attention: Mean over rounds, float `[t i j]` (i receiver, j sender), or None for networks
        without a space stage.
      pair_boxes: Boxes `y0 x0 y1 x1` of the synchronous pair in fractions of the frame, float
        `[t 2 4]`, or None.
      objects: Where the nodes are, if they are objects, see `draw_graph.object_places`; else None.
    """

    video: np.ndarray
    labels: tuple[int, ...]
    probabilities: np.ndarray
    attention: np.ndarray | None = None
    pair_boxes: np.ndarray | None = None
    objects: np.ndarray | None = None

    @property
    def predicted(self) -> int:
        """Index of the most probable class."""
        return int(np.argmax(self.probabilities))

    @property
    def correct(self) -> bool:
        """Whether it is one of the true ones."""
        return self.predicted in self.labels

    def truth(self, names: Sequence[str]) -> str:
        """The true classes in words."""
        return ", ".join(names[label] for label in self.labels) or "none"


def draw_frame(frame: np.ndarray, side: int, *, dim: float = 1.0) -> Image.Image:
    """Enlarges one frame `[h w c]` uint8 to height `side`, as RGB; `dim` scales its brightness."""
    height, width, channels = frame.shape
    pixels = frame.repeat(3, axis=-1) if channels == 1 else frame
    if channels not in (1, 3):  # a map of classes: a hue for each
        hues = [colorsys.hsv_to_rgb(hue, 1, 1) for hue in np.arange(channels) / channels]
        pixels = np.minimum(frame @ np.array(hues), 255)
    image = Image.fromarray((pixels * dim).astype(np.uint8), "RGB")
    return image.resize((round(side * width / height), side), Image.Resampling.BICUBIC)


def draw_boxes(image: Image.Image, boxes: np.ndarray) -> Image.Image:
    """Draws boxes `y0 x0 y1 x1` in fractions of the frame, `[m 4]`, over a copy of the image."""
    image = image.copy()
    draw = ImageDraw.Draw(image)
    for y0, x0, y1, x1 in boxes:
        corners = (x0 * image.width, y0 * image.height, x1 * image.width - 1, y1 * image.height - 1)
        draw.rectangle(corners, outline=PAIR_COLOR, width=max(1, image.height // 110))
    return image


def panels(example: Example, graph: "Graph | None", *, side: int) -> list[Image.Image]:
    """Draws the frames of an example `side` pixels high, each beside itself with its attention.

    Without attention there is the video alone.
    """
    images = []
    for index, frame in enumerate(example.video):
        left = draw_frame(frame, side)
        if example.pair_boxes is not None:
            left = draw_boxes(left, example.pair_boxes[index])
        if graph is None or example.attention is None:
            images.append(left)
            continue
        dimmed = draw_frame(frame, side, dim=0.55)
        objects = None if example.objects is None else example.objects[index]
        right = draw_attention(dimmed, example.attention[index], graph, objects=objects)
        both = Image.new("RGB", (left.width + right.width + 4, side), GROUND)
        both.paste(left, (0, 0))
        both.paste(right, (left.width + 4, 0))
        images.append(both)
    return images


def write_picture(
    path: str | Path, examples: Sequence[Example], graph: "Graph | None", names: Sequence[str]
) -> None:
    """Writes a still picture (.png) of the first examples, see `strip`.

    Raises:
      UserError: The suffix is another one, there are no examples, or it cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UserError(f"--picture={path}: the name must end in .png")
    if not examples:
        raise UserError(f"--picture={path}: there are no examples to draw; raise --examples")
    files.make_directory(path.parent, f"--picture={path}: {path.parent}")
    content = io.BytesIO()
    strip(examples[:PICTURE_EXAMPLES], graph, names).save(content, "PNG", optimize=True)
    files.write_bytes(path, content.getvalue())


def strip(examples: Sequence[Example], graph: "Graph | None", names: Sequence[str]) -> Image.Image:
    """Draws one row per example: `PICTURE_COLUMNS` frames spread over time, and a caption."""
    side, gap, caption = PICTURE_SIDE, 6, 46
    row_height = side + caption
    rows = []
    for example in examples:
        times = np.linspace(0, len(example.video) - 1, min(PICTURE_COLUMNS, len(example.video)))
        frames = []
        for time in np.round(times).astype(int):
            attention = None if example.attention is None else example.attention[time]
            image = draw_frame(example.video[time], side, dim=1.0 if attention is None else 0.7)
            if example.pair_boxes is not None:
                image = draw_boxes(image, example.pair_boxes[time])
            if attention is not None and graph is not None:
                objects = None if example.objects is None else example.objects[time]
                image = draw_attention(image, attention, graph, objects=objects)
            frames.append(image)
        rows.append(frames)
    width = max(sum(image.width + gap for image in frames) for frames in rows)
    sheet = Image.new("RGB", (width + 3 * gap, len(rows) * row_height + 2 * gap), GROUND)
    for row, (frames, example) in enumerate(zip(rows, examples, strict=True)):
        x, y = 2 * gap, 2 * gap + row * row_height
        for image in frames:
            sheet.paste(image, (x, y))
            x += image.width + gap
        _caption(ImageDraw.Draw(sheet), (2 * gap, y + side + 6), example, names, width)
    return sheet


def fit_text(text: str, size: int, width: float, *, lines: int = 1) -> list[str]:
    """Breaks a text into lines of at most `width` pixels; an ellipsis replaces the rest."""
    font = ImageFont.load_default(size)
    for letters in range(len(text), 3, -1):
        fitted = textwrap.wrap(text, letters, max_lines=lines, placeholder="...")
        if all(font.getlength(line) <= width for line in fitted):
            return fitted
    return [text]


def _caption(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    example: Example,
    names: Sequence[str],
    width: int,
) -> None:
    """Writes prediction, probability and truth, with a tick or a cross."""
    x, y = place
    right = example.correct
    color = RIGHT_COLOR if right else WRONG_COLOR
    mark = [(0, 7), (4, 11), (12, 2)] if right else [(1, 2), (11, 12), (6, 7), (11, 2), (1, 12)]
    draw.line([(x + dx, y + dy) for dx, dy in mark], fill=color, width=2, joint="curve")
    probability = float(example.probabilities[example.predicted])
    lines = (
        (f"{probability:.0%}  {names[example.predicted]}", y - 2, color, 15),
        (f"truth {example.truth(names)}", y + 17, MUTED, 13),
    )
    for text, top, ink, size in lines:
        (text,) = fit_text(text, size, width - 20)
        draw.text((x + 20, top), text, fill=ink, font=ImageFont.load_default(size))
