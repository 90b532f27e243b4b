"""Measures whatever accelerator JAX finds: correctness, the block, training steps, the generator.

    python -m benchmarks.accelerator [--minutes=8] [--only=REGEX] [--quick] [--json=FILE]

First comes correctness: how far blocks are from the official code's numbers, by the precision of
products. Then the block by schedule and in PyTorch (eager and compiled, if it is installed) on the
same device, training steps of whole models, live video, and SyncMNIST made on the device. What does
not begin within the minutes is listed as left out. Only the model side of the package is needed: no
TFDS, no video decoder. Operations are those that the function needs (see `benchmarks.block`), and
the peak is a large bfloat16 product timed beside them, not the published one.
"""

import dataclasses
import functools
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import block, machine, train_step
from configs import sync_mnist
from rstg_jax import cli, config, files
from rstg_jax.data.sync_mnist import canvas, generator, generator_jax
from rstg_jax.errors import reason
from rstg_jax.rstg import presets
from rstg_jax.rstg.block import RSTG, RSTGConfig, init_state
from tests import golden

PRECISIONS = ("default", "tensorfloat32", "highest")  # of products in float32
Row = dict[str, Any]
Figures = tuple[str, Callable[[], Row]]  # the name of a row, and what measures it


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes:
      goldens: official blocks in tests/golden.
      blocks: name, dimension, clips and frames of each block.
      steps: config, number of labels and clips of each training step.
      streams: dimension and clips of each live video.
      videos: that the generator makes at once.
      peak: rows of the matrices whose product is the peak.
      repeats: of every measurement.
    """

    goldens: tuple[str, ...] = ("block_B1_mnist", "block_B2_smt", "block_B3_multihead_dot")
    blocks: tuple[tuple[str, int, int, int], ...] = (
        ("paper size", 512, 32, 10),
        ("small", 64, 128, 10),
        ("long", 512, 4, 128),
    )
    steps: tuple[tuple[str, int, int], ...] = (
        ("configs/sync_mnist.py:paper", 46, 128),
        ("configs/smt.py:map_res3_4", 174, 8),
        ("configs/sync_mnist.py:demo", 7, 16),
        ("configs/sync_mnist.py:demo", 7, 512),
    )
    streams: tuple[tuple[int, int], ...] = ((512, 1), (512, 32))
    videos: int = 1024
    peak: int = 8192
    repeats: int = 10


QUICK = Sizes(
    goldens=("block_B6_mnist_iter1",),
    blocks=(("quick", 8, 2, 3),),
    steps=(("configs/sync_mnist.py:tiny", 4, 2),),
    streams=((8, 1),),
    videos=4,
    peak=256,
    repeats=1,
)


# --- correctness ----------------------------------------------------------------------------------


def agreement(sizes: Sizes) -> Iterator[Figures]:
    """Deviation of blocks from the official code, by type and precision of products."""
    for precision in PRECISIONS:
        measure = functools.partial(deviation, sizes.goldens, jnp.float32, precision)
        yield f"golden float32 {precision}", measure
    yield "golden bfloat16", functools.partial(deviation, sizes.goldens, jnp.bfloat16, "default")


def deviation(goldens: Sequence[str], dtype: Any, precision: str) -> Row:
    """Deviation of the nodes: the largest relative to the largest value, RMS relative to RMS.

    Both of the block that deviates most.
    """
    worst: dict[str, tuple[float, float]] = {}
    for name in goldens:
        numbers, chosen, variables = golden.block(name)
        features = jnp.asarray(numbers["in/features"], dtype)
        with jax.default_matmul_precision(precision):
            out = jax.jit(RSTG(chosen, project_back=True).apply)(variables, features)
        wanted = numbers["out_eval/nodes_TBNC"]
        got = np.asarray(jnp.einsum("btnd->tbnd", out.nodes), np.float32)
        off = got - wanted
        rms = np.sqrt(np.square(off).mean() / np.square(wanted).mean())
        worst[name] = (float(np.abs(off).max() / np.abs(wanted).max()), float(rms))
    name = max(worst, key=lambda key: worst[key])
    return {"largest deviation": worst[name][0], "RMS": worst[name][1], "block": name}


# --- the block ------------------------------------------------------------------------------------


def blocks(sizes: Sizes) -> Iterator[Figures]:
    """Forward and training, by schedule and beside PyTorch."""
    for name, dim, batch, frames in sizes.blocks:
        case = block.Case(name, presets.modern(dim=dim), batch, frames)
        for dtype in ("float32", "bfloat16"):
            measure = functools.partial(block_times, case, dtype, sizes)
            yield f"block {name}, d={dim}, {batch}x{frames}, {dtype}", measure


def block_times(case: block.Case, dtype: str, sizes: Sizes) -> Row:
    """Milliseconds of both passes; of each schedule, and of PyTorch."""
    assert isinstance(case.config, RSTGConfig)
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal(case.input_shape, np.float32)
    runs: dict[str, Callable[[], Any]] = {}
    row: Row = {}
    for schedule in ("stage", "wavefront"):
        scheduled = dataclasses.replace(case.config, schedule=schedule)
        made, variables, macs, seconds = block.ours(
            dataclasses.replace(case, config=scheduled), jnp.asarray(inputs, dtype)
        )
        runs |= {f"{schedule} {kind}": run for kind, run in made.items()}
        row[f"{schedule} compile s"] = seconds
    theirs, failure = torch_runs(case, inputs, variables, dtype)
    runs |= theirs
    times = machine.best_seconds(runs | {"peak": peak_product(sizes.peak)}, sizes.repeats)
    peak = machine.peak_flops(times.pop("peak"), sizes.peak)
    row |= {f"{name} ms": 1e3 * seconds for name, seconds in times.items()}
    for kind, passes in (("forward", 1), ("training", 3)):
        row[f"{kind} share of peak"] = 2 * macs * passes / times[f"stage {kind}"] / peak
        if f"torch {kind}" in times:
            row[f"{kind} x torch"] = times[f"torch {kind}"] / times[f"stage {kind}"]
    return row | ({"torch": failure} if failure else {})


def torch_runs(
    case: block.Case, inputs: np.ndarray, variables: Any, dtype: str
) -> tuple[dict[str, Callable[[], Any]], str]:
    """The same block in PyTorch on the same kind of device, and what went wrong if there is none.

    In bfloat16 by autocast, as its users have it.
    """
    try:
        import torch
    except ModuleNotFoundError:
        return {}, "PyTorch is not installed"
    on_gpu = jax.default_backend() == "gpu"
    if on_gpu and not torch.cuda.is_available():
        return {}, "PyTorch finds no GPU"
    device = "cuda" if on_gpu else "cpu"
    cast = functools.partial(torch.autocast, device, torch.bfloat16, enabled=dtype == "bfloat16")
    module, make = block.peers(case, inputs, variables, device)
    fast, _, failure = block.compiled(module, lambda network: finished(make(network), cast))
    runs = {f"torch {kind}": run for kind, run in finished(make(module), cast).items()}
    return runs | {f"compiled {kind}": run for kind, run in fast.items()}, failure


def finished(runs: block.Runs, cast: Callable[[], Any]) -> block.Runs:
    """Runs that compute under `cast` and return when the device has finished."""
    import torch

    def until_done(run: Callable[[], Any]) -> None:
        with cast():
            run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return {kind: functools.partial(until_done, run) for kind, run in runs.items()}


def streams(sizes: Sizes) -> Iterator[Figures]:
    """Live video: one frame after another."""
    for dim, batch in sizes.streams:
        yield (
            f"stream d={dim}, {batch} videos",
            functools.partial(frame_time, presets.modern(dim=dim), batch, sizes.repeats),
        )


def frame_time(chosen: RSTGConfig, batch: int, repeats: int) -> Row:
    """Milliseconds of a frame."""
    module = RSTG(chosen)
    frame = jnp.ones((batch, 1, 6, 6, chosen.dim))
    variables = jax.jit(module.init)(jax.random.key(0), frame)
    step = jax.jit(functools.partial(module.apply, method="stream"))
    state = jax.block_until_ready(step(variables, frame, init_state(chosen, batch)))[1]
    times = machine.best_seconds({"frame": lambda: step(variables, frame, state)}, 10 * repeats)
    return {"frame ms": 1e3 * times["frame"], "frames/s": batch / times["frame"]}


# --- training -------------------------------------------------------------------------------------


def training(sizes: Sizes) -> Iterator[Figures]:
    """Training steps of whole models."""
    for name, classes, batch in sizes.steps:
        for dtype in ("float32", "bfloat16"):
            yield (
                f"step {name}, {batch} clips, {dtype}",
                functools.partial(step_time, name, classes, batch, dtype, sizes),
            )


def step_time(name: str, classes: int, batch: int, dtype: str, sizes: Sizes) -> Row:
    """Clips a second, memory, and the share of the peak that the products reach."""
    changes = {"model.dtype": dtype, "train.batch_size": str(batch)}
    experiment = config.override(config.load(name), changes)
    peak = peak_product(sizes.peak)
    return dict(train_step.measure(experiment, classes, peak, sizes.peak, sizes.repeats))


# --- SyncMNIST on the device ----------------------------------------------------------------------


def generation(sizes: Sizes) -> Iterator[Figures]:
    """Videos that the device makes for itself."""
    for digits in (3, 5):
        yield (
            f"generator {digits} digits",
            functools.partial(generator_time, digits, sizes.videos, sizes.repeats),
        )


def generator_time(digits: int, videos: int, repeats: int) -> Row:
    """Videos a second of 10 frames of 64x64. The digit images are noise."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1000, canvas.SPRITE, canvas.SPRITE)).astype(np.uint8)
    spec = generator.VideoSpec(num_digits=digits)
    sprites = generator_jax.sprites(spec, generator.Digits(images, np.arange(1000) % 10))
    frame_size = sync_mnist.PREPARED.frame_size

    @jax.jit
    def make(key: jax.Array, sprites: Any) -> Any:
        keys = jax.random.split(key, videos)
        return jax.vmap(lambda k: generator_jax.make_video(k, sprites, spec, frame_size))(keys)

    key = jax.random.key(0)
    times = machine.best_seconds({"make": lambda: make(key, sprites)}, repeats)
    return {"videos/s": videos / times["make"]}


def peak_product(size: int) -> Callable[[], Any]:
    """A bfloat16 product to compare with."""
    return machine.large_product(size, jnp.bfloat16)


SECTIONS = (agreement, blocks, training, streams, generation)


def show(value: Any) -> str:
    """A figure for the table."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status, 1 if something could not be measured."""
    parser = cli.command_parser("benchmarks.accelerator", __doc__)
    parser.add_argument("--minutes", type=float, default=8.0, help="begin nothing after that")
    parser.add_argument("--only", default="", metavar="REGEX", help="rows with such names")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether all of this runs")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    flags = parser.parse_args(argv)
    sizes = QUICK if flags.quick else Sizes()
    end = time.monotonic() + 60 * flags.minutes
    about = machine.describe() | {"backend": jax.default_backend()}
    print(", ".join(f"{key} {value}" for key, value in about.items()), flush=True)
    rows: list[Row] = []
    failed = 0
    for section in SECTIONS:
        for name, measure in section(sizes):
            if not re.search(flags.only, name):
                continue
            if time.monotonic() > end:
                row: Row = {"left out": f"--minutes={flags.minutes:g} are over"}
            else:
                try:
                    row = measure()
                # One row that does not fit into the device's memory must not take the others along.
                except Exception as error:
                    row = {"failed": f"{type(error).__name__}: {reason(error)[:200]}"}
                    failed += 1
            rows.append({"name": name} | row)
            figures = ", ".join(f"{key} {show(value)}" for key, value in row.items())
            print(f"{name}: {figures}", flush=True)
            if flags.json:
                files.write_json(flags.json, {"machine": about, "rows": rows})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
