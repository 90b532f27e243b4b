"""The region graph drawn over a frame: regions, their activity, and what they attend to.

A region is a dot at the centre of its cell, coloured by scale or by activity, the larger the more
the others listen to it. A message is a line that grows thicker from its source to its destination;
the more opaque, the more attention it gets for one neighbour among so many. Each coarser scale is
drawn a little to the upper right, because centres of different scales may coincide.
"""

import dataclasses
import math

import numpy as np
from PIL import Image, ImageDraw

from rstg_jax.rstg.region_graph import RegionGraph

Color = tuple[int, int, int]

GROUND: Color = (18, 20, 24)
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
SCALE_OFFSET = 0.045  # how far each coarser scale is moved, in fractions of the frame


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
