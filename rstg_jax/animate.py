"""Saves an example of a data set, enlarged, as an animated GIF or WebP or as an MP4 or WebM video.

    python -m rstg_jax.animate --config=FILE[:VARIANT] --out=x.gif [--index=0] [--split=test]
        [--boxes] [--config.data.KEY=VALUE ...]

`--boxes` draws boxes around what decides the label where the data set knows it, such as the pair
of digits that moves together.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rstg_jax import cli, config, data
from rstg_jax.errors import UserError
from rstg_jax.viz import video_writer


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = cli.command_parser("rstg_jax.animate", __doc__)
    parser.add_argument("--config", required=True, metavar="FILE[:VARIANT]", help="its data")
    parser.add_argument("--out", type=Path, required=True, help=".gif, .webp, .mp4 or .webm")
    parser.add_argument("--index", type=int, default=0, help="of the example")
    parser.add_argument("--split", help="such as train, test (default) or validation")
    parser.add_argument("--boxes", action="store_true", help="around what decides the label")
    parser.add_argument("--size", type=int, default=256, help="height in pixels")
    parser.add_argument("--fps", type=int, default=video_writer.FPS, help="frames per second")
    args, overrides = cli.parse(parser, argv)

    video_writer.check_suffix(args.out)
    chosen = config.override(config.load(args.config), overrides).data
    if not chosen.pictures:
        raise UserError(f"{type(chosen).__name__}: its videos have no frames to show")
    chosen, part, split = chosen.single_view().with_split(args.split)
    source = chosen.open(part)
    if not 0 <= args.index < len(source):
        raise UserError(f"--index={args.index} is not an example of {source.name}")
    batch = source.batch(np.array([args.index]))
    boxes = chosen.decisive_boxes(batch, 0) if args.boxes else None
    video_writer.save(batch["video"][0], args.out, boxes=boxes, size=args.size, fps=args.fps)
    names = [source.label_names[label] for label in data.labels_of(batch["label"][0])]
    print(
        f"{args.out}: example {args.index} of the {split} split, label {', '.join(names) or 'none'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
