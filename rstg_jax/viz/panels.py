"""Pictures of single videos and of several: frames, animations, still sheets with captions."""

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rstg_jax.rstg.region_graph import RegionGraph
from rstg_jax.viz.draw_graph import GROUND, Color, draw_attention

PAIR_COLOR: Color = (86, 211, 155)
TEXT: Color = (230, 232, 236)
MUTED: Color = (152, 162, 179)
RIGHT_COLOR: Color = (86, 211, 155)
WRONG_COLOR: Color = (255, 122, 89)
FRAME_MS, LAST_FRAME_MS = 220, 900


@dataclasses.dataclass(frozen=True)
class Example:
    """One video with what the network made of it.

    Attributes:
      video: uint8 `[t h w c]`, c is 1 or 3.
      label: index of the true class.
      probabilities: of every class, float `[classes]`.
      attention: mean over rounds, float `[t i j]` (i destination, j source), or None for networks
        without a space stage.
      pair_boxes: boxes `y0 x0 y1 x1` of the synchronous pair in fractions of the frame, float
        `[t 2 4]`, or None.
    """

    video: np.ndarray
    label: int
    probabilities: np.ndarray
    attention: np.ndarray | None = None
    pair_boxes: np.ndarray | None = None

    @property
    def predicted(self) -> int:
        """Index of the most probable class."""
        return int(np.argmax(self.probabilities))


def draw_frame(frame: np.ndarray, side: int, *, dim: float = 1.0) -> Image.Image:
    """Enlarges one frame `[h w c]` uint8 to height `side`, as RGB; `dim` scales its brightness."""
    height, width, channels = frame.shape
    pixels = frame.repeat(3, axis=-1) if channels == 1 else frame
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


def panels(
    example: Example, graph: RegionGraph | None, *, side: int, edges: int, boxes: bool = True
) -> list[Image.Image]:
    """The frames of one example: the video, and beside it the video under its attention.

    Without attention there is the video alone. `side` is the height of a panel in pixels.
    """
    images = []
    for index, frame in enumerate(example.video):
        left = draw_frame(frame, side)
        if boxes and example.pair_boxes is not None:
            left = draw_boxes(left, example.pair_boxes[index])
        if graph is None or example.attention is None:
            images.append(left)
            continue
        dimmed = draw_frame(frame, side, dim=0.55)
        right = draw_attention(dimmed, example.attention[index], graph, edges=edges)
        both = Image.new("RGB", (left.width + right.width + 4, side), GROUND)
        both.paste(left, (0, 0))
        both.paste(right, (left.width + 4, 0))
        images.append(both)
    return images


def encode(frames: Sequence[Image.Image], kind: str = "WEBP", frame_ms: int | None = None) -> bytes:
    """An endless animation as WebP or GIF bytes; the last frame stays longer.

    Args:
      frames: RGB, of one size.
      kind: "WEBP" or "GIF".
      frame_ms: how long each other frame stays, in milliseconds; `FRAME_MS` if None.
    """
    buffer = io.BytesIO()
    durations = [frame_ms or FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS]
    options = {"quality": 80, "method": 4, "minimize_size": True} if kind == "WEBP" else {}
    frames[0].save(
        buffer,
        format=kind,
        save_all=True,
        append_images=list(frames[1:]),
        duration=durations,
        loop=0,
        **options,
    )
    return buffer.getvalue()


def gallery(
    examples: Sequence[Example],
    graph: RegionGraph | None,
    names: Sequence[str],
    *,
    side: int,
    edges: int,
) -> list[Image.Image]:
    """Frames of one animation that shows several examples side by side, each with its caption."""
    columns = [panels(example, graph, side=side, edges=edges) for example in examples]
    width, gap, caption = columns[0][0].width, 16, 46
    total = (gap + len(columns) * (width + gap), side + 2 * gap + caption)
    frames = []
    for index in range(max(map(len, columns))):
        sheet = Image.new("RGB", total, GROUND)
        for column, (images, example) in enumerate(zip(columns, examples, strict=True)):
            x = gap + column * (width + gap)
            sheet.paste(images[min(index, len(images) - 1)], (x, gap))
            _caption(ImageDraw.Draw(sheet), (x, gap + side + 10), example, names, width)
        frames.append(sheet)
    return frames


def strip(
    examples: Sequence[Example],
    graph: RegionGraph | None,
    names: Sequence[str],
    *,
    side: int,
    edges: int,
    columns: int = 6,
) -> Image.Image:
    """A still picture: one row an example, `columns` of its frames spread evenly over time."""
    gap, caption = 6, 46
    row_height = side + caption
    rows = []
    for example in examples:
        times = np.linspace(0, len(example.video) - 1, min(columns, len(example.video)))
        frames = []
        for time in np.round(times).astype(int):
            attention = None if example.attention is None else example.attention[time]
            image = draw_frame(example.video[time], side, dim=1.0 if attention is None else 0.7)
            if example.pair_boxes is not None:
                image = draw_boxes(image, example.pair_boxes[time])
            if attention is not None and graph is not None:
                image = draw_attention(image, attention, graph, edges=edges)
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


def shortened(draw: ImageDraw.ImageDraw, text: str, size: int, width: float) -> str:
    """A text that is at most `width` pixels wide in letters of `size`, cut off with an ellipsis."""
    font = ImageFont.load_default(size)
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(f"{text}...", font=font) > width:
        text = text[:-1]
    return f"{text.rstrip()}..."


def wrapped(
    draw: ImageDraw.ImageDraw, text: str, size: int, width: float, *, lines: int
) -> list[str]:
    """Breaks a text into at most so many lines of at most `width` pixels, cut off if need be."""
    font = ImageFont.load_default(size)
    done = [""]
    for word in text.split():
        longer = f"{done[-1]} {word}".strip()
        fits = not done[-1] or draw.textlength(longer, font=font) <= width
        if fits or len(done) == lines:
            done[-1] = longer
        else:
            done.append(word)
    return [shortened(draw, line, size, width) for line in done]


def _caption(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    example: Example,
    names: Sequence[str],
    width: int,
) -> None:
    """Writes prediction, probability and truth, with a tick or a cross."""
    x, y = place
    right = example.predicted == example.label
    color = RIGHT_COLOR if right else WRONG_COLOR
    mark = [(0, 7), (4, 11), (12, 2)] if right else [(1, 2), (11, 12), (6, 7), (11, 2), (1, 12)]
    draw.line([(x + dx, y + dy) for dx, dy in mark], fill=color, width=2, joint="curve")
    probability = float(example.probabilities[example.predicted])
    lines = (
        (f"{probability:.0%}  {names[example.predicted]}", y - 2, color, 15),
        (f"truth {names[example.label]}", y + 17, MUTED, 13),
    )
    for text, top, ink, size in lines:
        text = shortened(draw, text, size, width - 20)
        draw.text((x + 20, top), text, fill=ink, font=ImageFont.load_default(size))
