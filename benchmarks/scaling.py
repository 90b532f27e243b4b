"""How the block's time and memory grow with frames, nodes, features, iterations and clips.

    python -m benchmarks.scaling [--only=REGEX] [--repeats=5] [--quick] [--json=FILE]
                                 [--plot=FILE.svg]

Parts, of which `--only` chooses by name:
frames, nodes, features, iterations, clips
            forward and backward (gradients to weights and features) of the modern block on maps of
            6x6 with d channels; one of these varies, the others are those of `BASE`. The exponent
            is that of a power law through the last two rows: 1 is linear.
cells       forward and backward of short and of very long clips with every recurrent cell, and an
            LSTM that also reads differences and lags of up to 128 frames; 1.1 behind the time of a
            frame says that it is 1.1 times that of the shortest clip
schedules   "stage" against "wavefront", forward alone and with backward
stream      `RSTG.stream` frame by frame, after few frames and after many; the memory of the process
compile     seconds of lowering and compilation, for short and long clips, few and many iterations

All runs of a part take turns (of `schedules` and `stream`: those of a row) with a 2048x2048
float32 product, the shortest time of each counts (`benchmarks.machine`). Memory is what XLA
allocates beside arguments and results. The share of the peak counts only operations that the
function needs (`benchmarks.block`). Nothing compiled is taken from a cache.
"""

import dataclasses
import functools
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil

from benchmarks import machine
from benchmarks.block import block_macs
from benchmarks.scaling_plan import FACTORS, FULL, PARTS, QUICK, SCHEDULES, SIDE, Plan, Point
from benchmarks.scaling_plot import drawing
from rstg_jax import cli, files
from rstg_jax.errors import UserError
from rstg_jax.rstg.block import RSTG, RSTGConfig, init_state

Row = dict[str, Any]


# --- what is timed --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled function, ready to run on arguments that it keeps."""

    run: Callable[[], Any]
    compile_seconds: float
    temp_bytes: int


@functools.cache
def weights(config: RSTGConfig) -> Any:
    """Variables of a block."""
    frame = jnp.zeros((1, 1, SIDE, SIDE, config.dim))
    return jax.jit(RSTG(config).init)(jax.random.key(0), frame)


def inputs(point: Point) -> tuple[Any, jax.Array]:
    """Variables of a block and a feature volume."""
    x = np.random.default_rng(0).standard_normal(point.shape, np.float32)
    return weights(dataclasses.replace(point.config, schedule="stage")), jnp.asarray(x)


@functools.cache
def program(point: Point, backward: bool = True) -> Program:
    """The block at a point, forward or forward and backward; compiled once in a process."""
    variables, x = inputs(point)
    run, seconds = compiled(point, backward)
    return Program(lambda: run(variables, x), seconds, run.memory_analysis().temp_size_in_bytes)


def compiled(point: Point, backward: bool = True) -> tuple[Any, float]:
    """The compiled function of variables and features, and the seconds that this took."""
    module: Any = RSTG(point.config)  # "any": `apply` of Linen may also return changed variables
    variables, x = inputs(point)

    def forward(variables: Any, x: jax.Array) -> jax.Array:
        return module.apply(variables, x).nodes

    def objective(variables: Any, x: jax.Array) -> jax.Array:
        return jnp.square(module.apply(variables, x, train=True).nodes).sum()

    both = jax.grad(objective, argnums=(0, 1))
    jax.clear_caches()  # of what was traced before
    start = time.perf_counter()
    run = jax.jit(both if backward else forward).lower(variables, x).compile()
    return run, time.perf_counter() - start


# --- parts ----------------------------------------------------------------------------------------


def scaling_rows(points: Sequence[Point], repeats: int) -> list[Row]:
    """Figures of points that take turns: a row each."""
    programs = {str(number): program(point) for number, point in enumerate(points)}
    runs = {name: made.run for name, made in programs.items()}
    times = machine.best_seconds(runs | {"peak": machine.large_product()}, repeats)
    peak = machine.peak_flops(times.pop("peak"))
    rows = []
    for point, made, seconds in zip(points, programs.values(), times.values(), strict=True):
        macs = block_macs(point.config, point.shape)
        rows.append(
            point.size
            | {
                "scales": point.scales,
                "macs": macs,
                "seconds": seconds,
                "temp_bytes": made.temp_bytes,
                "compile_seconds": made.compile_seconds,
                "peak_gflops": peak / 1e9,
                "share_of_peak": 2 * 3 * macs / seconds / peak,  # backward is twice the forward
            }
        )
    return rows


def cell_rows(points: Sequence[Point], repeats: int) -> list[Row]:
    """Figures of every cell; the clips of a cell take turns."""
    rows: list[Row] = []
    for cell in dict.fromkeys(point.cell for point in points):
        found = scaling_rows([point for point in points if point.cell == cell], repeats)
        shortest = found[0]["seconds"] / found[0]["frames"]
        for row in found:
            del row["macs"], row["share_of_peak"]  # counted for an LSTM
            ratio = row["seconds"] / row["frames"] / shortest
            rows.append(row | {"cell": cell, "to_shortest": ratio})
    return rows


def schedule_rows(case: tuple[int, int, int], plan: Plan, repeats: int) -> list[Row]:
    """Latency of both schedules on a case `b t d`: a row of the forward pass, one of both."""
    b, t, d = case
    base = dataclasses.replace(plan.base, clips=b, frames=t, features=d)
    rows: list[Row] = []
    for name, backward in (("forward", False), ("forward + backward", True)):
        runs = {
            schedule: program(dataclasses.replace(base, schedule=schedule), backward).run
            for schedule in SCHEDULES
        }
        times = machine.best_seconds(runs | {"peak": machine.large_product()}, repeats)
        peak = machine.peak_flops(times.pop("peak"))
        row = {"clips": b, "frames": t, "features": d, "pass": name, "seconds": times}
        ratio = times["stage"] / times["wavefront"]
        rows.append(row | {"stage_to_wavefront": ratio, "peak_gflops": peak / 1e9})
    return rows


def stream_row(features: int, plan: Plan, repeats: int) -> Row:
    """Frames a second of one video, frame by frame, behind few frames and behind many."""
    point = dataclasses.replace(plan.base, clips=1, frames=1, features=features)
    module, state = RSTG(point.config), init_state(point.config, 1)
    variables, frame = inputs(point)

    def one(variables: Any, frame: jax.Array, state: Any) -> Any:
        (nodes, _), state = module.apply(variables, frame, state, method="stream")
        return nodes, state

    step = jax.jit(one).lower(variables, frame, state).compile()

    def after(frames: int, state: Any) -> Any:
        for _ in range(frames):
            _, state = jax.block_until_ready(step(variables, frame, state))
        return state

    early, late = plan.stream[features]
    memory = psutil.Process().memory_info
    before = after(early, state)
    resident = [memory().rss]
    behind = after(late - early, before)
    resident.append(memory().rss)
    times = machine.best_seconds(
        {
            "early": lambda: after(plan.turn, before),
            "late": lambda: after(plan.turn, behind),
            "peak": machine.large_product(),
        },
        repeats,
    )
    return {
        "features": features,
        "frames": [early, late],
        "resident_bytes": resident,
        "frames_a_second": [plan.turn / times[name] for name in ("early", "late")],
        "state_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(behind)),
        "peak_gflops": machine.peak_flops(times["peak"]) / 1e9,
    }


def compile_rows(plan: Plan, repeats: int) -> list[Row]:
    """Seconds of compilation of both schedules, the shortest of some."""
    rows: list[Row] = []
    for schedule in SCHEDULES:
        for factor, points in plan.compiled.items():
            times = [
                [compiled(dataclasses.replace(point, schedule=schedule))[1] for point in points]
                for _ in range(repeats)
            ]
            seconds = np.min(times, axis=0).tolist()
            row = {"schedule": schedule, "factor": factor, "seconds": seconds}
            values = [getattr(point, factor) for point in points]
            rows.append(row | {"values": values, "last_to_first": seconds[-1] / seconds[0]})
    return rows


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """Exponent of the power law through the last two points."""
    return math.log(y[-1] / y[-2]) / math.log(x[-1] / x[-2])


def exponents(factor: str, rows: Sequence[Row]) -> dict[str, float]:
    """Of time and memory; what nodes cost follows their edges."""
    x = [row["edges" if factor == "nodes" else factor] for row in rows]
    if len(x) < 2 or not min(x[-2:]):
        return {}
    figures = {key: [row[key] for row in rows] for key in ("seconds", "temp_bytes")}
    return {key: exponent(x, y) for key, y in figures.items() if min(y[-2:])}


# --- the tables -----------------------------------------------------------------------------------


def cells(part: str, row: Row) -> dict[str, str]:
    """The printed cells of a row, by the heads of the columns."""
    if part in FACTORS:
        names = ("frames", "nodes", "edges", "features", "iterations", "clips")
        return {name: f"{row[name]}" for name in names} | {
            "ms": f"{1e3 * row['seconds']:.2f}",
            "memory, MB": f"{row['temp_bytes'] / 1e6:.2f}",
            "compile, s": f"{row['compile_seconds']:.2f}",
            "share of peak": f"{row['share_of_peak']:.0%}",
        }
    if part == "cells":
        return {
            "cell": row["cell"],
            "frames": f"{row['frames']}",
            "us a frame": f"{1e6 * row['seconds'] / row['frames']:.0f}",
            "of the shortest": f"{row['to_shortest']:.2f}",
            "memory, MB": f"{row['temp_bytes'] / 1e6:.1f}",
            "compile, s": f"{row['compile_seconds']:.1f}",
        }
    if part == "schedules":
        ms = {f"{name}, ms": f"{1e3 * t:.2f}" for name, t in row["seconds"].items()}
        size = {name: f"{row[name]}" for name in ("clips", "frames", "features", "pass")}
        return size | ms | {"stage / wavefront": f"{row['stage_to_wavefront']:.2f}"}
    if part == "stream":
        return {
            "features": f"{row['features']}",
            "after frames": ", ".join(f"{frames:,}" for frames in row["frames"]),
            "frames/s": ", ".join(f"{speed:,.0f}" for speed in row["frames_a_second"]),
            "resident, MB": ", ".join(f"{size / 1e6:.1f}" for size in row["resident_bytes"]),
            "state, bytes": f"{row['state_bytes']:,}",
        }
    pairs = zip(row["values"], row["seconds"], strict=True)
    return {
        "schedule": row["schedule"],
        "of": row["factor"],
        "seconds": ", ".join(f"{seconds:.2f} at {value}" for value, seconds in pairs),
        "last / first": f"{row['last_to_first']:.2f}",
    }


def table(rows: Sequence[dict[str, str]]) -> Iterator[str]:
    """Lines of cells below their heads, all columns flush right."""
    widths = {head: max(len(head), *(len(row[head]) for row in rows)) + 2 for head in rows[0]}
    yield "".join(f"{head:>{width}}" for head, width in widths.items())
    for row in rows:
        yield "".join(f"{row[head]:>{width}}" for head, width in widths.items())


def measured(part: str, plan: Plan, repeats: int) -> Row:
    """The figures of a part."""
    if part in FACTORS:
        rows = scaling_rows(plan.factors[part], repeats)
        return {"rows": rows, "exponents": exponents(part, rows)}
    if part == "cells":
        rows = cell_rows(plan.cells, repeats)
    elif part == "schedules":
        rows = [row for case in plan.schedules for row in schedule_rows(case, plan, repeats)]
    elif part == "stream":
        rows = [stream_row(features, plan, repeats) for features in plan.stream]
    else:
        rows = compile_rows(plan, repeats)
    return {"rows": rows}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = cli.command_parser("benchmarks.scaling", __doc__)
    parser.add_argument("--only", default="", metavar="REGEX", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="tiny blocks, once")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the five factors")
    flags = parser.parse_args(argv)
    parts = [part for part in PARTS if re.search(flags.only, part)]
    if flags.repeats < 1:
        raise UserError(f"--repeats={flags.repeats}: at least 1 run is needed")
    if not parts:
        raise UserError(f"--only={flags.only} leaves none of {', '.join(PARTS)}")
    if flags.plot and not set(parts) & set(FACTORS):
        raise UserError(f"--plot draws {', '.join(FACTORS)}: --only={flags.only} leaves none")
    jax.config.update("jax_enable_compilation_cache", False)
    plan, repeats = (QUICK, 1) if flags.quick else (FULL, flags.repeats)
    figures: dict[str, Any] = {"machine": machine.describe()}
    print(", ".join(f"{key} {value}" for key, value in figures["machine"].items()))
    for part in parts:
        figures[part] = found = measured(part, plan, repeats)
        found["load_average"] = machine.describe()["load_average_1_minute"]
        print("\n".join(["", part, *table([cells(part, row) for row in found["rows"]])]))
        if laws := found.get("exponents"):
            print("exponents: " + ", ".join(f"{key} {value:.2f}" for key, value in laws.items()))
        sys.stdout.flush()
        if flags.json:
            files.write_json(flags.json, figures)
    if flags.plot:
        rows = {part: figures[part]["rows"] for part in parts if part in FACTORS}
        files.write_text(flags.plot, drawing(rows))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
