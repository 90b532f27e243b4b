"""Operations of the block's forward pass: as the release writes it, and as it is computed here.

    python -m benchmarks.operations [--json=FILE]

Multiply-accumulates of one clip; nothing is run or timed.

release   the formula of `release_parts`
needed    what the function itself asks for (`benchmarks.block`): nothing twice, no masked pair
program   all products of our program before compilation (`rstg_jax.models.flops`), the constant 0/1
          matrices that pick the ends of edges included
XLA       half of the floating-point operations that the compiler counts in the compiled program,
          elementwise ones included. It counts the body of a loop once, however often it runs, so it
          is asked about one frame, where no loop runs longer, times the frames. What a clip needs
          once, the position maps' products, is thus counted with every frame.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from benchmarks.block import block_macs, block_parts
from configs import smt, sync_mnist
from rstg_jax import cli, files
from rstg_jax.models import classifier, flops
from rstg_jax.rstg import presets
from rstg_jax.rstg.block import RSTG, RSTGConfig, init_state
from rstg_jax.training.experiment import Experiment

Block = tuple[RSTGConfig, tuple[int, ...]]  # and the features that it reads, `[b t h w c]`
CLASSES = 2  # of the models around the blocks: no block depends on it
PARTS_OF = "SyncMNIST, official"


def blocks() -> dict[str, Block]:
    """Everything that is counted, one clip each."""
    return {
        PARTS_OF: (presets.official("sync_mnist"), (1, 10, 6, 6, 512)),
        "Something-Something res2, official": block_of(smt.get_config("map_res2")),
        "Something-Something res4, official": block_of(smt.get_config("map_res4")),
        "modern, d = 512": (presets.modern(dim=512), (1, 10, 6, 6, 512)),
        "modern, d = 64": (presets.modern(dim=64), (1, 10, 6, 6, 64)),
        "SyncMNIST demo": block_of(sync_mnist.demo()),
        "Something-Something demo": block_of(smt.demo()),
    }


def block_of(experiment: Experiment) -> Block:
    """The block of an experiment's model, and the shape that one clip has where it stands."""
    found: list[Block] = []

    def note(run: Any, arguments: Any, keywords: Any, context: Any) -> Any:
        if isinstance(context.module, RSTG) and context.method_name == "_encode":
            found.append((context.module.config, arguments[0].shape))
        return run(*arguments, **keywords)

    module = classifier.build(experiment.model, CLASSES)
    video = jax.ShapeDtypeStruct((1, *experiment.data.clip_shape), jnp.uint8)
    with nn.intercept_methods(note):
        jax.eval_shape(module.init, jax.random.key(0), video)
    (block,) = found
    return block


# --- four ways of counting ------------------------------------------------------------------------


def release_parts(config: RSTGConfig, features: tuple[int, ...]) -> dict[str, int]:
    """Multiply-accumulates of a forward pass as the released code writes it, by part.

    In every space stage of every frame all n * n ordered pairs of nodes, neighbours or not, go
    through both layers of the message MLP, the first on the full concatenation
    `[v_j p_j v_i p_i]`: n * n * (2 (d + p) d + d d), with p the 36 values of a position map, or 0
    without positions. Dot-product attention compares all pairs, and all messages are summed.
    Pooling is the full product of the map with every node's filter. Attention's linear maps
    (2 n d d, or 2 n d if "additive"), update (n (2 d d + d d)) and LSTM (n (4 d d + 4 d d)) are
    computed once a node, as here.

    Args:
      config: of the block.
      features: their shape `[b t h w c]`.
    """
    b, t, h, w, channels = features
    d, graph = config.dim, config.graph()
    n, p = graph.num_nodes, graph.position_maps.shape[1] if config.positions else 0
    space = b * t * (len(config.stages) - config.stages.count("time"))
    attend = 2 * n * d * d + n * n * d if config.attention == "dot" else 2 * n * d
    return block_parts(config, features) | {
        "pooling": b * t * n * h * w * channels,
        "messages, first layer": space * n * n * 2 * (d + p) * d,
        "messages, second layer": space * n * n * d * d,
        "attention": space * attend,
        "weighted sum": space * n * n * d,
    }


def program_macs(config: RSTGConfig, features: tuple[int, ...]) -> int:
    """Multiply-accumulates of all products of our program, loops counted with their length."""
    module, x = RSTG(config), jax.ShapeDtypeStruct(features, jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    return flops.macs(jax.make_jaxpr(module.apply)(variables, x).jaxpr).total()


def xla_macs(config: RSTGConfig, features: tuple[int, ...]) -> float:
    """Half of the operations that XLA counts in the compiled program; see above about loops."""
    b, t = features[:2]
    module = RSTG(config)
    x = jax.ShapeDtypeStruct((b, 1, *features[2:]), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)

    # With a state that is given: products with the zeros of a clip's start would be left out. Not
    # by `stream`, which refuses blocks that look at later frames.
    def one_frame(variables: Any, x: jax.Array, state: Any) -> Any:
        return module.apply(variables, x, state, False, method="_encode_process_decode")

    state = jax.eval_shape(lambda: init_state(config, b))
    analysis: Any = jax.jit(one_frame).lower(variables, x, state).compile().cost_analysis()
    return t * analysis["flops"] / 2


# --- the tables -----------------------------------------------------------------------------------


def counted(name: str, block: Block) -> dict[str, Any]:
    """The row of a block."""
    config, features = block
    released, needed = sum(release_parts(*block).values()), block_macs(*block)
    return {
        "block": name,
        "dim": config.dim,
        "features": list(features),
        "release": released,
        "needed": needed,
        "program": program_macs(*block),
        "xla": xla_macs(*block),
        "release_to_needed": released / needed,
    }


def parts(block: Block) -> list[dict[str, Any]]:
    """Rows of the parts of a block."""
    needed = block_parts(*block)
    return [
        {"part": part, "release": macs, "needed": needed[part]}
        for part, macs in release_parts(*block).items()
        if macs
    ]


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The lines that are printed of all blocks."""
    yield (
        f"{'GMAC of one clip':<36}{'d':>5}  {'frames, map':<18}{'release':>9}{'needed':>9}"
        f"{'program':>9}{'XLA':>9}{'release / needed':>18}"
    )
    for row in rows:
        _, t, h, w, c = row["features"]
        figures = (row[key] for key in ("release", "needed", "program", "xla"))
        yield (
            f"{row['block']:<36}{row['dim']:>5}  {f'{t}, {h}x{w}x{c}':<18}"
            + "".join(f"{figure / 1e9:>9.3f}" for figure in figures)
            + f"{row['release_to_needed']:>18.2f}"
        )


def parts_table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The lines that are printed of one block's parts."""
    yield f"{f'GMAC of {PARTS_OF}':<36}{'release':>9}{'needed':>9}{'release / needed':>18}"
    for row in rows:
        yield (
            f"{row['part']:<36}{row['release'] / 1e9:>9.4f}{row['needed'] / 1e9:>9.4f}"
            f"{row['release'] / row['needed']:>18.2f}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = cli.command_parser("benchmarks.operations", __doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    flags = parser.parse_args(argv)
    chosen = blocks()
    rows = [counted(name, block) for name, block in chosen.items()]
    pieces = parts(chosen[PARTS_OF])
    print("\n".join([*table(rows), "", *parts_table(pieces)]))
    if flags.json:
        figures = {"jax": jax.__version__, "blocks": rows, "parts": pieces}
        files.write_json(flags.json, figures)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
