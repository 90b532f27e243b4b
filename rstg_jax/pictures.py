"""Pictures of what the region graph attends to, drawn over the frames of a video.

A region is a dot at the centre of its cell, coloured by scale, the larger the more the others
listen to it. A message is a line that grows thicker from its source to its destination; the more
opaque, the more attention it gets for one neighbour among so many. Each coarser scale is drawn a
little to the upper right, because centres of different scales may coincide.
"""

import dataclasses
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rstg_jax.graph import RegionGraph

Color = tuple[int, int, int]

SUPERSAMPLING = 3
FULL_WEIGHT = 4.0  # even shares of attention from which on a message is drawn opaque
SCALE_COLORS: tuple[Color, ...] = ((76, 201, 240), (255, 190, 11), (255, 84, 160), (160, 230, 120))
HEAT_COLORS: tuple[Color, ...] = (
    (38, 30, 92),
    (120, 28, 109),
    (207, 68, 70),
    (251, 155, 6),
    (252, 255, 164),
)
CELL_OPACITY = 84  # of 255, of the tint of a cell
PAIR_COLOR: Color = (86, 211, 155)
GROUND: Color = (18, 20, 24)
TEXT: Color = (230, 232, 236)
MUTED: Color = (152, 162, 179)
RIGHT_COLOR: Color = (86, 211, 155)
WRONG_COLOR: Color = (255, 122, 89)
SCALE_OFFSET = 0.045  # how far each coarser scale is moved, in fractions of the frame
FRAME_MS, LAST_FRAME_MS = 220, 900


@dataclasses.dataclass(frozen=True)
class Edge:
    """One message of the graph: from node `source` to node `destination`.

    `weight` counts even shares: 1 is what each neighbour of the receiver would get if attention
    were spread evenly. A corner has 4 neighbours and the whole frame 13, so bare attention weights
    would always show the corners.
    """

    destination: int
    source: int
    weight: float


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


def strongest_edges(attention: np.ndarray, neighbours: np.ndarray, count: int) -> list[Edge]:
    """The messages between neighbours that stand out most in one frame, the greatest first.

    Args:
      attention: weights `[i j]`, i destination, j source. Official masking gives weight to
        pairs that are no neighbours too; these are left out.
      neighbours: bool `[i j]`.
      count: how many at most.
    """
    destinations, sources = np.nonzero(neighbours)
    weights = (attention * neighbours.sum(axis=1, keepdims=True))[destinations, sources]
    order = np.argsort(-weights, kind="stable")[:count]
    return [Edge(int(destinations[e]), int(sources[e]), float(weights[e])) for e in order]


def scale_color(order: int) -> Color:
    """Colour of the nodes of the scale at place `order` of the graph's scales."""
    return SCALE_COLORS[order % len(SCALE_COLORS)]


def node_places(graph: RegionGraph) -> np.ndarray:
    """Where the nodes are drawn: `y x` in fractions of the frame, float64 `[n 2]`, all distinct."""
    places = graph.centers.copy()
    for order, nodes in enumerate(graph.scale_slices):
        places[nodes] += SCALE_OFFSET * order * np.array([-1.0, 1.0])
    return places


def draw_frame(frame: np.ndarray, side: int, *, dim: float = 1.0) -> Image.Image:
    """Enlarges one frame `[h w c]` uint8 to height `side`, as RGB; `dim` scales its brightness."""
    height, width, channels = frame.shape
    pixels = frame.repeat(3, axis=-1) if channels == 1 else frame
    image = Image.fromarray((pixels * dim).astype(np.uint8), "RGB")
    return image.resize((round(side * width / height), side), Image.Resampling.BICUBIC)


def draw_attention(
    image: Image.Image, attention: np.ndarray, graph: RegionGraph, *, edges: int = 10
) -> Image.Image:
    """Draws the strongest messages of one frame over an image.

    Args:
      image: RGB, any size.
      attention: weights `[i j]` of this frame.
      graph: gives the regions' places.
      edges: how many messages are drawn.

    Returns:
      A new RGB image of the same size.
    """
    layer = graph_layer(image.size, graph, attention, edges=edges)
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def graph_layer(
    size: tuple[int, int],
    graph: RegionGraph,
    attention: np.ndarray | None,
    *,
    edges: int = 10,
    activity: np.ndarray | None = None,
) -> Image.Image:
    """Regions and strongest messages of one frame, to be laid over it.

    Args:
      size: width and height in pixels.
      graph: gives the regions' places.
      attention: weights `[i j]` of this frame, or None to draw no message.
      edges: how many messages are drawn.
      activity: of the nodes, `[n]` in 0..1. If given, nodes and the cells of the finest grid have
        its colour (`heat`); else nodes have that of their scale.

    Returns:
      RGBA, transparent where nothing is drawn.
    """
    scale = SUPERSAMPLING
    size = (size[0] * scale, size[1] * scale)
    layer = Image.new("RGBA", size, (255, 255, 255, 0))
    if activity is not None:
        _draw_cells(ImageDraw.Draw(layer), size, graph, activity)
    places = node_places(graph)[:, ::-1] * size  # [n 2], x y in pixels
    unit = size[1] / 220  # line widths are given for a frame 220 pixels high
    heard = np.zeros(graph.num_nodes)  # [j]: what all neighbours together give to source j
    if attention is not None:
        heard = np.where(graph.adjacency, attention, 0).sum(axis=0)
        strongest = strongest_edges(attention, graph.adjacency, edges)
        for edge in reversed(strongest):  # the strongest last, on top
            opacity = round(255 * min(1.0, 0.18 + 0.82 * edge.weight / FULL_WEIGHT))
            corners = _taper(places[edge.source], places[edge.destination], unit)
            left, top = (max(0, math.floor(min(c)) - 1) for c in zip(*corners, strict=True))
            right, bottom = (math.ceil(max(c)) + 2 for c in zip(*corners, strict=True))
            stroke = Image.new("RGBA", (right - left, bottom - top), (255, 255, 255, 0))
            ImageDraw.Draw(stroke).polygon(
                [(x - left, y - top) for x, y in corners], fill=(255, 255, 255, opacity)
            )
            layer.alpha_composite(stroke, (left, top))
    draw = ImageDraw.Draw(layer)
    for order, nodes in enumerate(graph.scale_slices):
        for node in range(nodes.start, nodes.stop):
            color = scale_color(order) if activity is None else heat(float(activity[node]))
            x, y = places[node]
            radius = unit * (2.2 + 1.7 * float(np.sqrt(heard[node])))
            draw.ellipse(
                (x - radius, y - radius, x + radius, y + radius),
                fill=(*color, 255),
                outline=(*GROUND, 255),
                width=round(unit),
            )
    return layer.reduce(scale)


def heat(value: float) -> Color:
    """Colour of an activity in 0..1: from dark blue over purple and orange to pale yellow."""
    place = min(max(value, 0.0), 1.0) * (len(HEAT_COLORS) - 1)
    low = min(int(place), len(HEAT_COLORS) - 2)
    share = place - low
    pairs = zip(HEAT_COLORS[low], HEAT_COLORS[low + 1], strict=True)
    red, green, blue = (round(a + share * (b - a)) for a, b in pairs)
    return red, green, blue


def _draw_cells(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], graph: RegionGraph, activity: np.ndarray
) -> None:
    """Tints the cells of the finest grid by their activity, and rules the grid."""
    finest = graph.scale_slices[int(np.argmax(graph.scales))]
    for node in range(finest.start, finest.stop):
        y0, x0, y1, x1 = graph.boxes[node] * (size[1], size[0], size[1], size[0])
        corners = (round(x0), round(y0), round(x1) - 1, round(y1) - 1)
        draw.rectangle(
            corners,
            fill=(*heat(float(activity[node])), CELL_OPACITY),
            outline=(255, 255, 255, 150),
            width=max(1, SUPERSAMPLING // 2),
        )


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


def _taper(source: np.ndarray, destination: np.ndarray, unit: float) -> list[tuple[float, float]]:
    """Corners of a line from `source` to `destination`, thin at its start, thick at its end.

    It lies beside the straight connection, so that the messages of both directions can be seen.
    """
    along = destination - source
    along = along / max(float(np.hypot(*along)), 1e-9)
    across = np.array([-along[1], along[0]])
    begin = source + unit * (1.6 * across + 3 * along)
    end = destination + unit * (1.6 * across - 3 * along)
    corners = [
        begin - 0.4 * unit * across,
        begin + 0.4 * unit * across,
        end + 1.7 * unit * across,
        end - 1.7 * unit * across,
    ]
    return [(float(x), float(y)) for x, y in corners]


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
