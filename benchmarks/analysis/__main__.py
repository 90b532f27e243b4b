"""What a SyncMNIST model needs and what it looks at; writes docs/analysis.md and its pictures.

    python -m benchmarks.analysis [--weights=sync_mnist/lite5] [--videos=2000] [--out=docs]

The page of other weights has their name: --weights=sync_mnist/lite3 writes docs/analysis_lite3.md.
Pictures are in the directory beside the page, docs/analysis/ or docs/analysis_lite3/. Flags
--config.data... choose other test videos, as of `rstg_jax.evaluate`.

Accuracy is measured on test videos as they are, cut short, out of order, and sorted by how far
apart, how hidden and how fast the pair is. Then parts of the graph are switched off, see
`rstg_jax.inference.interventions`: which of the finest regions matters most in the middle frame,
and does it hold a digit of the pair? The same question is asked of the attention and, for
comparison, of the network with random weights.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.analysis import page, subject
from rstg_jax import cli

WEIGHTS = "sync_mnist/lite5"  # those of analysis.md


def command(weights: str, videos: int, changes: Mapping[str, str]) -> str:
    """The command line as the page shows it: directories are the reader's."""
    words = [f"--weights={weights}", f"--videos={videos}"]
    for key, value in changes.items():
        words.append(f"--config.{key}={'DIR' if key.endswith('_dir') else value}")
    return " ".join(["python -m benchmarks.analysis", *words])


def page_name(weights: str) -> str:
    """Name of the page about some weights, so that no model's page replaces another's."""
    return "analysis.md" if weights == WEIGHTS else f"analysis_{Path(weights).stem}.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = cli.command_parser("benchmarks.analysis", __doc__, whole=True)
    parser.add_argument("--weights", default=WEIGHTS, help="name or .safetensors file")
    parser.add_argument("--videos", type=int, default=2000, help="test videos to use")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="directory of the page")
    args, changes = cli.parse(parser, argv)
    studied = subject.load(args.weights, args.videos, changes)
    path = args.out / page_name(args.weights)
    page.write(studied, command(args.weights, args.videos, changes), args.weights, path)
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
