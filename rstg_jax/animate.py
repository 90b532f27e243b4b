"""Saves an example of SyncMNIST, enlarged, as an animated GIF or WebP or as an MP4 or WebM video.

    python -m rstg_jax.animate --out=x.gif [--index=0] [--split=test] [--boxes] [--num_digits=5] ...

`--boxes` draws boxes around the pair that moves together.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rstg_jax import cli
from rstg_jax.data import SyncMNISTConfig, dataset
from rstg_jax.errors import UserError
from rstg_jax.viz import video_writer

DATA_FLAGS = ("digits_from", "mnist_dir", "data_dir", "num_digits", "num_test", "num_train", "seed")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = cli.command_parser("rstg_jax.animate", __doc__)
    parser.add_argument("--out", type=Path, required=True, help=".gif, .webp, .mp4 or .webm")
    parser.add_argument("--index", type=int, default=0, help="of the example")
    parser.add_argument("--split", choices=dataset.SPLITS, default="test")
    parser.add_argument("--boxes", action="store_true", help="around the synchronous pair")
    parser.add_argument("--size", type=int, default=256, help="height in pixels")
    parser.add_argument("--fps", type=int, default=video_writer.FPS, help="frames per second")
    default = SyncMNISTConfig(test_source="online")
    parser.add_argument("--source", choices=("online", "tfds"), default=default.test_source)
    for name in DATA_FLAGS:
        value = getattr(default, name)
        kind = int if isinstance(value, int) else str
        parser.add_argument(f"--{name}", type=kind, default=value)
    args = parser.parse_args(argv)

    fields = {name: getattr(args, name) for name in DATA_FLAGS}
    config = SyncMNISTConfig(train_source=args.source, test_source=args.source, **fields)
    source = config.open(args.split)
    if not 0 <= args.index < len(source):
        raise UserError(f"--index={args.index} is not an example of {source.name}")
    batch = source.batch(np.array([args.index]))
    boxes = config.decisive_boxes(batch, 0) if args.boxes else None
    video_writer.save(batch["video"][0], args.out, boxes=boxes, size=args.size, fps=args.fps)
    label = source.label_names[batch["label"][0]]
    print(f"{args.out}: example {args.index} of the {args.split} split, label {label}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
