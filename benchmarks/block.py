"""The block and SyncMNIST models against the same written in PyTorch, and against the machine.

    python -m benchmarks.block [--only=REGEX] [--repeats=5] [--no_compile] [--quick] [--json=FILE]

Forward, and forward with gradients to weights and features; for models a whole training step with
cross entropy and plain gradient descent. PyTorch runs eagerly and by `torch.compile`, with as many
threads as XLA. All runs of a case take turns with a 2048x2048 float32 product, the shortest time of
each counts (`benchmarks.machine`). Operations are those that the function NEEDS, whoever computes
it: messages of real edges where others are masked out, position terms once, gradients twice the
forward; nothing elementwise. Needs requirements-torch.txt.
"""

import dataclasses
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import machine
from configs import sync_mnist
from rstg_jax import cli, files
from rstg_jax.errors import UserError
from rstg_jax.machine import num_cores
from rstg_jax.models import classifier
from rstg_jax.models import flops as costs
from rstg_jax.models.config import ModelConfig
from rstg_jax.rstg import presets
from rstg_jax.rstg.block import RSTG, RSTGConfig
from rstg_jax.rstg.time_inputs import width_of_lag

CLASSES = 46
RATE = 1e-9  # of gradient descent: no repetition changes what is computed
Runs = dict[str, Callable[[], Any]]


@dataclasses.dataclass(frozen=True)
class Case:
    """A measured module: a block on maps of 6x6 pixels, or a whole model on frames of `side`."""

    name: str
    config: RSTGConfig | ModelConfig
    batch: int
    frames: int
    side: int = 6

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the features, or of the video."""
        channels = self.config.dim if isinstance(self.config, RSTGConfig) else 1
        return (self.batch, self.frames, self.side, self.side, channels)


def cases() -> list[Case]:
    """Everything that is measured."""
    official, modern = presets.official("sync_mnist"), presets.modern(dim=512)
    demo = dataclasses.replace(sync_mnist.demo().model, region_classes=0, early_heads=False)
    return [
        Case("paper size, official", official, 2, 10),
        Case("paper size, official", official, 2, 16),
        Case("paper size, modern", modern, 2, 10),
        Case("paper size, modern", modern, 2, 16),
        Case("small, official", presets.official("sync_mnist", dim=64), 32, 10),
        Case("small, modern", presets.modern(dim=64), 32, 10),
        Case("long, official", official, 1, 128),
        Case("long, modern", modern, 1, 128),
        Case("model, official", sync_mnist.official().model, 1, 10, 64),
        Case("model, demo", demo, 16, 10, 32),
    ]


def quick_cases() -> list[Case]:
    """A small block and a small model: whether all of this runs."""
    block = presets.modern(1, dim=8)
    model = ModelConfig(sync_mnist.tiny().model.backbone, block)
    return [Case("quick block", block, 2, 3), Case("quick model", model, 2, 3, 16)]


# --- operations -----------------------------------------------------------------------------------


def block_parts(config: RSTGConfig, features: tuple[int, ...]) -> dict[str, int]:
    """Multiply-accumulates that one forward pass on `[b t h w c]` needs, by what they are for."""
    b, t, h, w, channels = features
    graph, d = config.regions((h, w)), config.dim
    n, edges = graph.num_nodes, int(graph.adjacency.sum())
    if config.masking == "multiply":
        edges = n * n
    time = b * t * config.stages.count("time")
    space = b * t * len(config.stages) - time
    positions = 2 * n * graph.position_maps.shape[1] * d if config.positions else 0
    inputs, late = d * (1 + config.differences), len(config.lags) * width_of_lag(d, config.lags)
    attend = 2 * n * d * d + edges * d if config.attention == "dot" else 2 * n * d
    return {
        "pooling": b * t * int(np.count_nonzero(graph.pool)) * channels,
        "projection": b * t * n * channels * d if channels != d else 0,
        "messages, first layer": space * 2 * n * d * d + positions,
        "messages, second layer": space * edges * d * d,
        "attention": space * attend,
        "weighted sum": space * edges * d,
        "update": space * n * 3 * d * d,
        "LSTM": time * n * (inputs * late + 4 * d * (inputs + late + d)),
    }


def block_macs(config: RSTGConfig, features: tuple[int, ...]) -> int:
    """All multiply-accumulates that one forward pass on `[b t h w c]` needs."""
    return sum(block_parts(config, features).values())


def model_macs(config: ModelConfig, module: Any, variables: Any, video: jax.Array) -> int:
    """The same for a model: its block as above, everything else as its jaxpr counts it."""
    traced = jax.jit(module.apply).trace(variables, video)
    counts = costs.macs(traced.jaxpr.jaxpr)
    rest = sum(number for place, number in counts.items() if "rstg_final" not in place)
    return rest + block_macs(config.rstg, traced.out_info[1]["features"].shape)


# --- what is timed --------------------------------------------------------------------------------


def ours(case: Case, inputs: np.ndarray | jax.Array) -> tuple[Runs, Any, int, float]:
    """Functions to time, the variables in use, MACs of a forward pass, and compile seconds."""
    x = jnp.asarray(inputs)
    config = case.config
    is_block = isinstance(config, RSTGConfig)
    module: Any = (
        RSTG(config) if isinstance(config, RSTGConfig) else classifier.build(config, CLASSES)
    )
    variables = jax.jit(module.init)(jax.random.key(0), x)
    params, stats = variables["params"], variables.get("batch_stats", {})
    labels = jnp.arange(case.batch)

    def forward(params: Any, x: jax.Array) -> jax.Array:
        out = module.apply({"params": params, "batch_stats": stats}, x)
        return out.nodes if is_block else out[0]

    def objective(params: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        given = {"params": params, "batch_stats": stats}
        out, moved = module.apply(given, x, train=True, mutable=["batch_stats"])
        if is_block:
            return jnp.square(out.nodes).sum(), moved
        losses = optax.softmax_cross_entropy_with_integer_labels(out[0], labels)
        return losses.mean(), moved

    def step(params: Any, x: jax.Array) -> Any:
        grads, moved = jax.grad(objective, has_aux=True)(params, x)
        return jax.tree.map(lambda p, g: p - RATE * g, params, grads), moved

    both = jax.grad(objective, argnums=(0, 1), has_aux=True)
    start = time.perf_counter()
    inference = jax.jit(forward).lower(params, x).compile()
    training = jax.jit(both if is_block else step).lower(params, x).compile()
    seconds = time.perf_counter() - start
    macs = (
        block_macs(case.config, x.shape)
        if isinstance(case.config, RSTGConfig)
        else model_macs(case.config, module, variables, x)
    )
    runs: Runs = {
        "forward": lambda: inference(params, x),
        "training": lambda: training(params, x),
    }
    return runs, variables, macs, seconds


def peers(
    case: Case, inputs: np.ndarray, variables: Any, device: str = "cpu"
) -> tuple[Any, Callable[[Any], Runs]]:
    """The PyTorch module with the same weights, and what makes functions to time of a module."""
    import torch

    from benchmarks.peers import torch_rstg

    torch.set_num_threads(num_cores())
    x = torch.tensor(inputs, device=device)
    module: Any
    if isinstance(case.config, RSTGConfig):
        module = torch_rstg.RSTG(case.config, (case.side, case.side), inputs.shape[-1])
        torch_rstg.copy_block(module, variables)
        x.requires_grad_()
    else:
        module = torch_rstg.Classifier(case.config, inputs.shape[1:], CLASSES)
        torch_rstg.copy_classifier(module, variables)
    module.to(device)
    descent = torch.optim.SGD(module.parameters(), RATE)
    labels = torch.arange(case.batch, device=device)

    def runs(network: Any) -> Runs:
        def forward() -> None:
            network.eval()
            with torch.no_grad():
                network(x)

        def training() -> None:
            network.train()
            descent.zero_grad(set_to_none=True)
            x.grad = None
            out = network(x)
            if x.requires_grad:
                out.square().sum().backward()
            else:
                torch.nn.functional.cross_entropy(out, labels).backward()
                descent.step()

        return {"forward": forward, "training": training}

    return module, runs


def compiled(module: Any, runs: Callable[[Any], Runs]) -> tuple[Runs, float, str]:
    """The functions by `torch.compile`, its seconds, and what went wrong if they are none."""
    import torch

    torch.compiler.reset()
    torch.compiler.config.force_disable_caches = True  # a former run's would hide the seconds
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = runs(torch.compile(module))
            for run in made.values():
                run()
    # What fails here, and how, is up to PyTorch and the C++ compiler that it finds.
    except Exception as error:
        return {}, 0.0, f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return made, time.perf_counter() - start, ""


# --- the table ------------------------------------------------------------------------------------


def measured(case: Case, repeats: int, with_compile: bool) -> list[dict[str, Any]]:
    """Rows of a case: one of inference, one of training."""
    rng = np.random.default_rng(0)
    if isinstance(case.config, RSTGConfig):
        inputs: np.ndarray = rng.standard_normal(case.input_shape, np.float32)
    else:
        inputs = rng.integers(0, 256, case.input_shape, np.uint8)
    here, variables, macs, seconds = ours(case, inputs)
    module, make = peers(case, inputs, variables)
    fast, compile_seconds, failure = compiled(module, make) if with_compile else ({}, 0.0, "")
    there = {"ours": here, "torch": make(module), "compiled": fast}
    rows = []
    for kind, passes in (("forward", 1), ("training", 3)):
        runs = {who: runs[kind] for who, runs in there.items() if kind in runs}
        times = machine.best_seconds(runs | {"peak": machine.large_product()}, repeats)
        peak, flops = machine.peak_flops(times.pop("peak")), 2 * macs * passes
        rows.append(
            {
                "case": case.name,
                "batch": case.batch,
                "frames": case.frames,
                "pass": kind,
                "seconds": times,
                "ratio_to_torch": times["torch"] / times["ours"],
                "ratio_to_compiled": times.get("compiled", np.nan) / times["ours"],
                "gflop_needed": flops / 1e9,
                "peak_gflops": peak / 1e9,
                "share_of_peak": {who: flops / t / peak for who, t in times.items()},
                "compile_seconds": {"ours": seconds, "compiled": compile_seconds},
                "compile_failure": failure,
                "load_average": machine.describe()["load_average_1_minute"],
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The lines that are printed."""
    yield (
        f"{'case':<21}{'b':>3}{'t':>5} {'pass':<9}{'ms':>8}{'torch':>9}{'compiled':>10}"
        f"{'x torch':>9}{'x comp.':>9}{'GFLOP':>8}{'peak':>6}{'ours':>6}{'torch':>7}"
        f"{'compile s':>11}{'torch':>7}"
    )
    for row in rows:
        times, share = row["seconds"], row["share_of_peak"]
        spent = row["compile_seconds"]
        yield (
            f"{row['case']:<21}{row['batch']:>3}{row['frames']:>5} {row['pass']:<9}"
            f"{1e3 * times['ours']:>8.1f}{1e3 * times['torch']:>9.1f}"
            f"{1e3 * times.get('compiled', np.nan):>10.1f}{row['ratio_to_torch']:>9.1f}"
            f"{row['ratio_to_compiled']:>9.1f}{row['gflop_needed']:>8.2f}"
            f"{row['peak_gflops']:>6.0f}{share['ours']:>6.0%}{share['torch']:>7.0%}"
            f"{spent['ours']:>11.1f}{spent['compiled']:>7.1f}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = cli.command_parser("benchmarks.block", __doc__)
    parser.add_argument("--only", default="", metavar="REGEX", help="cases with such names")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no_compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--quick", action="store_true", help="two tiny cases, once")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    flags = parser.parse_args(argv)
    try:
        import torch
    except ImportError as error:
        raise UserError("this needs PyTorch: pip install -r requirements-torch.txt") from error
    chosen = [c for c in (quick_cases if flags.quick else cases)() if re.search(flags.only, c.name)]
    if not chosen:
        raise UserError(f"--only={flags.only} leaves no case")
    about = machine.describe() | {"torch": torch.__version__, "threads": num_cores()}
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    rows: list[dict[str, Any]] = []
    for case in chosen:
        with_compile = not (flags.quick or flags.no_compile)
        new = measured(case, 1 if flags.quick else flags.repeats, with_compile)
        lines = list(table(new))
        print("\n".join(lines[1:] if rows else lines), flush=True)
        if new[0]["compile_failure"]:
            print(f"  torch.compile gave up: {new[0]['compile_failure']}")
        rows += new
        if flags.json:
            files.write_json(flags.json, {"machine": about, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
