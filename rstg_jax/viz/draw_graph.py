"""Draws the region graph over a frame: regions, their activity, and the messages between them.

A region is a dot at the centre of its cell, coloured by scale or by activity. Its size shows the
total attention that the region receives. A message is a line that widens from its sender to its
receiver; its opacity shows the attention weight, relative to uniform attention. Each coarser
scale is shifted to the upper right, because centres of different scales may coincide. An object is
drawn where it is in the frame, if it is there.
"""

import dataclasses
import math
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:  # so that drawing frames does not load JAX
    from rstg_jax.rstg.region_graph import Graph, RegionGraph

Color = tuple[int, int, int]

GROUND: Color = (18, 20, 24)
EDGES = 10  # messages drawn per frame
SUPERSAMPLING = 3
FULL_WEIGHT = 4.0  # multiple of uniform attention from which a message is drawn opaque
SCALE_COLORS: tuple[Color, ...] = ((76, 201, 240), (255, 190, 11), (255, 84, 160), (160, 230, 120))
HEAT_COLORS: tuple[Color, ...] = (
    (38, 30, 92),
    (120, 28, 109),
    (207, 68, 70),
    (251, 155, 6),
    (252, 255, 164),
)
FOUND = 0.5  # how sure the network is of an object that is drawn
CELL_OPACITY = 84  # of 255, for the tint of a cell
SCALE_OFFSET = 0.045  # shift of each coarser scale, in fractions of the frame


@dataclasses.dataclass(frozen=True)
class Edge:
    """One message of the graph, from node `sender` to node `receiver`.

    `weight` is a multiple of uniform attention: 1 if the receiver attends to all its neighbours
    alike. A corner has 4 neighbours and the whole frame 13, so the largest raw attention weights
    would always be those of the corners.
    """

    receiver: int
    sender: int
    weight: float


def strongest_edges(attention: np.ndarray, neighbours: np.ndarray, count: int) -> list[Edge]:
    """Returns the messages of one frame with the greatest weights, in decreasing order.

    Args:
      attention: Weights `[i j]`, i receiver, j sender. Official masking also gives weight to
        pairs that are not neighbours; these are left out.
      neighbours: bool `[i j]`.
      count: Maximum number of messages.
    """
    receivers, senders = np.nonzero(neighbours)
    weights = (attention * neighbours.sum(axis=1, keepdims=True))[receivers, senders]
    order = np.argsort(-weights, kind="stable")[:count]
    return [Edge(int(receivers[e]), int(senders[e]), float(weights[e])) for e in order]


def scale_color(order: int) -> Color:
    """Colour of the nodes of the scale with index `order`."""
    return SCALE_COLORS[order % len(SCALE_COLORS)]


def object_places(found: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Places of objects as they are drawn, from those of `rstg_jax.models.object_map.Objects`.

    Args:
      found: how sure it is that there is one, `[t n]`.
      places: `y x` from -1 to 1, `[t n 2]`.

    Returns:
      `y x` in fractions of the frame, `[t n 2]`, nan for objects that are not there.
    """
    return np.where(found[..., None] < FOUND, np.nan, (places + 1) / 2)


def node_places(graph: "Graph", objects: np.ndarray | None = None) -> np.ndarray:
    """Distinct places of the nodes, `y x` in fractions of the frame, float64 `[n 2]`.

    Args:
      graph: The nodes.
      objects: Their places in this frame if they are objects, nan for those that are not there.
    """
    if objects is not None:
        return np.asarray(objects, float)
    regions = cast("RegionGraph", graph)
    places = regions.centers.copy()
    for order, nodes in enumerate(regions.scale_slices):
        places[nodes] += SCALE_OFFSET * order * np.array([-1.0, 1.0])
    return places


def draw_attention(
    image: Image.Image,
    attention: np.ndarray,
    graph: "Graph",
    *,
    edges: int = EDGES,
    objects: np.ndarray | None = None,
) -> Image.Image:
    """Draws the strongest messages of one frame over an image.

    Args:
      image: RGB, of any size.
      attention: Weights `[i j]` of this frame.
      graph: The nodes.
      edges: Number of messages drawn.
      objects: See `node_places`.

    Returns:
      A new RGB image of the same size.
    """
    layer = graph_layer(image.size, graph, attention, edges=edges, objects=objects)
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def graph_layer(
    size: tuple[int, int],
    graph: "Graph",
    attention: np.ndarray | None,
    *,
    edges: int = EDGES,
    activity: np.ndarray | None = None,
    objects: np.ndarray | None = None,
) -> Image.Image:
    """Draws nodes and strongest messages of one frame on a transparent layer.

    Args:
      size: Width and height in pixels.
      graph: The nodes.
      attention: Weights `[i j]` of this frame, or None to draw no message.
      edges: Number of messages drawn.
      activity: Activity of the nodes, `[n]` in 0..1. If given, it colours the nodes and the cells
        of the finest grid (`heat`); otherwise the scale colours the nodes.
      objects: See `node_places`.

    Returns:
      RGBA image of the given size.
    """
    scale = SUPERSAMPLING
    size = (size[0] * scale, size[1] * scale)
    layer = Image.new("RGBA", size, (255, 255, 255, 0))
    if activity is not None and objects is None:
        _draw_cells(ImageDraw.Draw(layer), size, cast("RegionGraph", graph), activity)
    places = node_places(graph, objects)[:, ::-1] * size  # [n 2], x y in pixels
    there = ~np.isnan(places[:, 0])
    neighbours = graph.adjacency & there & there[:, None]
    unit = size[1] / 220  # line widths are given for a frame 220 pixels high
    received = np.zeros(graph.num_nodes)  # [j]: total attention to sender j
    if attention is not None:
        received = np.where(neighbours, attention, 0).sum(axis=0)
        strongest = strongest_edges(attention, neighbours, edges)
        for edge in reversed(strongest):  # the strongest last, on top
            opacity = round(255 * min(1.0, 0.18 + 0.82 * edge.weight / FULL_WEIGHT))
            corners = _taper(places[edge.sender], places[edge.receiver], unit)
            left, top = (max(0, math.floor(min(c)) - 1) for c in zip(*corners, strict=True))
            right, bottom = (math.ceil(max(c)) + 2 for c in zip(*corners, strict=True))
            stroke = Image.new("RGBA", (right - left, bottom - top), (255, 255, 255, 0))
            ImageDraw.Draw(stroke).polygon(
                [(x - left, y - top) for x, y in corners], fill=(255, 255, 255, opacity)
            )
            layer.alpha_composite(stroke, (left, top))
    draw = ImageDraw.Draw(layer)
    for order, nodes in enumerate(graph.scale_slices):
        for node in np.arange(nodes.start, nodes.stop)[there[nodes]]:
            color = scale_color(order) if activity is None else heat(float(activity[node]))
            x, y = places[node]
            radius = unit * (2.2 + 1.7 * float(np.sqrt(received[node])))
            draw.ellipse(
                (x - radius, y - radius, x + radius, y + radius),
                fill=(*color, 255),
                outline=(*GROUND, 255),
                width=round(unit),
            )
    return layer.reduce(scale)


def heat(value: float) -> Color:
    """Colour of an activity in 0..1: dark blue, purple, orange, pale yellow."""
    places = np.linspace(0, 1, len(HEAT_COLORS))
    channels = zip(*HEAT_COLORS, strict=True)
    red, green, blue = (round(float(np.interp(value, places, c))) for c in channels)
    return red, green, blue


def _draw_cells(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], graph: "RegionGraph", activity: np.ndarray
) -> None:
    """Tints the cells of the finest grid by their activity and draws the grid."""
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


def _taper(sender: np.ndarray, receiver: np.ndarray, unit: float) -> list[tuple[float, float]]:
    """Corners of a line from `sender` to `receiver` that widens towards its end.

    It runs beside the straight connection, so that the messages of both directions are visible.
    """
    along = receiver - sender
    along = along / max(float(np.hypot(*along)), 1e-9)
    across = np.array([-along[1], along[0]])
    begin = sender + unit * (1.6 * across + 3 * along)
    end = receiver + unit * (1.6 * across - 3 * along)
    corners = [
        begin - 0.4 * unit * across,
        begin + 0.4 * unit * across,
        end + 1.7 * unit * across,
        end - 1.7 * unit * across,
    ]
    return [(float(x), float(y)) for x, y in corners]
