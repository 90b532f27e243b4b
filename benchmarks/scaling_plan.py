"""The plan of `benchmarks.scaling`: blocks of all sizes, and where they begin."""

import dataclasses
from collections.abc import Sequence
from typing import Any, get_args

from rstg_jax.rstg import presets
from rstg_jax.rstg.block import RSTGConfig
from rstg_jax.rstg.config import Cell
from rstg_jax.rstg.frame_attention import lags_of
from rstg_jax.rstg.region_graph import RegionGraph

SIDE = 6  # rows and columns of the feature map
FACTORS = ("frames", "nodes", "features", "iterations", "clips")
PARTS = (*FACTORS, "cells", "schedules", "stream", "compile")
# What the time stages of a point are, by the name that tables have for it.
CELLS: dict[str, dict[str, Any]] = {cell: {"cell": cell} for cell in get_args(Cell)}
CELLS["lstm, lags"] = {"cell": "lstm", "differences": True, "lags": lags_of(128)[1:]}
SCHEDULES = ("stage", "wavefront")


@dataclasses.dataclass(frozen=True)
class Point:
    """A block and the size of what it reads."""

    frames: int = 16
    scales: tuple[int, ...] = (3, 2, 1)
    features: int = 128
    iterations: int = 3
    clips: int = 4
    schedule: str = "stage"
    cell: str = "lstm"

    @property
    def config(self) -> RSTGConfig:
        """The block."""
        choices = {"scales": self.scales, "schedule": self.schedule, **CELLS[self.cell]}
        return presets.modern(self.iterations, dim=self.features, **choices)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the feature volume, `[b t h w c]`."""
        return (self.clips, self.frames, SIDE, SIDE, self.features)

    @property
    def size(self) -> dict[str, int]:
        """What tables and JSON say of it."""
        graph = RegionGraph(self.scales)
        sizes = {"frames": self.frames, "nodes": graph.num_nodes}
        sizes["edges"] = int(graph.adjacency.sum()) // 2
        return sizes | {name: getattr(self, name) for name in FACTORS[2:]}


@dataclasses.dataclass(frozen=True)
class Plan:
    """The measurements: points of every factor, and sizes of the other parts.

    Attributes:
      base: the point from which one factor at a time is changed.
      factors: name -> points from least to most.
      cells: points of every cell, from short clips to long ones.
      schedules: clips, frames and features of the cases.
      stream: of every number of features, frames before the first and the second measurement.
      turn: frames of one turn of a measurement.
      compiled: factor -> points to compile, from least to most.
    """

    base: Point
    factors: dict[str, list[Point]]
    cells: list[Point]
    schedules: list[tuple[int, int, int]]
    stream: dict[int, tuple[int, int]]
    turn: int
    compiled: dict[str, list[Point]]


def plan_of(base: Point, values: dict[str, Sequence[Any]], **others: Any) -> Plan:
    """A plan whose factors take these values; "nodes" are given by scales."""
    factors = {
        factor: [
            dataclasses.replace(base, **{"scales" if factor == "nodes" else factor: value})
            for value in values[factor]
        ]
        for factor in FACTORS
    }
    compiled = {
        factor: [dataclasses.replace(base, **{factor: value}) for value in ends]
        for factor, ends in others.pop("compiled").items()
    }
    long = others.pop("long")
    one = others.pop("cells")
    cells = [
        dataclasses.replace(one, cell=cell, frames=frames) for cell in CELLS for frames in long
    ]
    return Plan(base, factors, cells, compiled=compiled, **others)


BASE = Point()
FULL = plan_of(
    BASE,
    {
        "frames": (8, 16, 32, 64, 128, 256, 512),
        "nodes": ((1,), (2, 1), (3, 2, 1), (4, 3, 2, 1), (6, 3, 1)),
        "features": (32, 64, 128, 256, 512),
        "iterations": (1, 2, 3, 4, 6),
        "clips": (1, 2, 4, 8, 16, 32),
    },
    cells=Point(scales=(2, 1), features=64, clips=2),
    long=(64, 256, 1024, 4096),
    schedules=[(b, t, d) for d in (128, 512) for b, t in ((1, 16), (1, 128), (8, 16))],
    stream={64: (10, 100_000), 128: (10, 100_000), 512: (10, 1000)},
    turn=50,
    compiled={"frames": (8, 512), "iterations": (1, 3, 6)},
)
QUICK = plan_of(
    Point(2, (1,), 4, 1, 1),
    {
        "frames": (2, 4),
        "nodes": ((1,), (2, 1)),
        "features": (4, 8),
        "iterations": (1, 2),
        "clips": (1, 2),
    },
    cells=Point(2, (1,), 8, 1, 1),
    long=(2, 4),
    schedules=[(1, 2, 4)],
    stream={4: (1, 3)},
    turn=2,
    compiled={"frames": (2, 4)},
)
