"""One self-contained page about a finished run: figures, curves, confusion, animated test videos.

    python -m rstg_jax.report --workdir=DIR [--examples=12] [--picture=FILE.webp|.gif|.png]

writes `DIR/report.html` (no other file, no network) and, if asked, a picture for other documents.
Figures come from `result.json` and `metrics.jsonl`; the examples are the first ones of the test
split, never chosen by result, and are computed from the checkpoint of the last step, which is what
`result.json` is about.
Clips are shown in one view, the centred one, and at most 16 frames of each.
`--config.data.KEY=VALUE` says where the data lies if it has moved.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rstg_jax import cli, data
from rstg_jax.errors import UserError
from rstg_jax.inference import protocols
from rstg_jax.rstg.block import RSTGConfig
from rstg_jax.rstg.region_graph import RegionGraph
from rstg_jax.training import checkpoint
from rstg_jax.viz import annotate_video, html_report, panels

FRAMES = 16  # of a video that are shown at most
PICTURE_EXAMPLES = 3
PICTURE_SIDE = 180  # height of a video in the picture, in pixels
PICTURE_KINDS = {".webp": "WEBP", ".gif": "GIF", ".png": "PNG"}

Apply = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]


def read_record(workdir: str | Path) -> html_report.Record:
    """Reads `result.json`, `config.json` and `metrics.jsonl` of a finished run.

    Raises:
      UserError: a file is missing or damaged; the message says which.
    """
    workdir = Path(workdir)
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    lines = _read_text(workdir / "metrics.jsonl").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            rows[row["split"], row["step"]] = row
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            path = workdir / "metrics.jsonl"
            raise UserError(
                f"{path} line {number} is not a row of metrics: remove the line, or train again"
            ) from error
    metrics = {
        split: [row for (name, _), row in sorted(rows.items()) if name == split]
        for split in ("train", "test")
    }
    return html_report.Record(
        result=_read_json(workdir / "result.json"),
        config=_read_json(workdir / "config.json"),
        metrics=metrics,
    )


def predict_examples(
    source: data.Source, apply: Apply, count: int, batch_size: int = 4
) -> list[panels.Example]:
    """Runs the first examples of a source through the network.

    Args:
      source: the split.
      apply: video `[b t h w c]` -> probabilities `[b classes]`, attention `[k b t i j]` or None.
      count: how many examples; fewer if the split is smaller.
      batch_size: how many at a time; the last batch is filled up, so that only one shape occurs.
    """
    examples = []
    count = min(count, len(source))
    for start in range(0, count, batch_size):
        indices = np.minimum(np.arange(start, start + batch_size, dtype=np.int64), count - 1)
        batch = source.batch(indices)
        probabilities, attention = apply(batch["video"])
        frames = batch["video"].shape[1]
        shown = np.linspace(0, frames - 1, min(frames, FRAMES)).round().astype(int)
        for row in range(min(batch_size, count - start)):
            boxes = data.pair_boxes(batch, row, source.label_names)
            examples.append(
                panels.Example(
                    video=batch["video"][row][shown],
                    label=int(batch["label"][row]),
                    probabilities=np.asarray(probabilities[row]),
                    attention=None if attention is None else _at(shown, frames, attention[:, row]),
                    pair_boxes=None if boxes is None else boxes[shown],
                )
            )
    return examples


def _at(shown: np.ndarray, frames: int, attention: np.ndarray) -> np.ndarray:
    """Attention in the frames `shown` of a clip, mean over rounds: `[k t i j]` -> `[shown i j]`."""
    mean = np.mean(attention, axis=0)
    return mean[[annotate_video.network_time(frame, frames, len(mean)) for frame in shown.tolist()]]


def load_examples(
    workdir: str | Path, step: str, count: int, overrides: Mapping[str, str] | None = None
) -> tuple[list[panels.Example], RegionGraph | None]:
    """Predicts the first test examples with a checkpoint of the run.

    Returns:
      The examples, and the graph that their attention is about (None without space stages).
    """
    loaded = checkpoint.load(workdir, step, overrides, devices=jax.devices()[:1])
    settings = loaded.experiment.data
    if not isinstance(settings, data.SyncMNISTConfig):
        settings = protocols.with_protocol(settings, protocols.CENTER)
    source = data.open_source(settings, "test")

    @jax.jit
    def forward(video):  # type: ignore[no-untyped-def]
        logits, out = loaded.module.apply(loaded.variables, video, train=False)
        return jax.nn.softmax(logits), out.get("attention")

    def apply(video: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        return jax.device_get(forward(video))

    examples = predict_examples(source, apply, count)
    block = find_block(loaded.experiment.model)
    if not examples or examples[0].attention is None or block is None:
        return examples, None
    return examples, RegionGraph(block.scales)


def find_block(config: Any) -> RSTGConfig | None:
    """The first RSTG block in a model's configuration, wherever the model has it."""
    if isinstance(config, RSTGConfig):
        return config
    parts: Iterable[Any] = ()
    if dataclasses.is_dataclass(config):
        parts = (getattr(config, field.name) for field in dataclasses.fields(config))
    elif isinstance(config, tuple | list):
        parts = config
    return next((found for part in parts if (found := find_block(part)) is not None), None)


def write_picture(
    path: str | Path,
    examples: Sequence[panels.Example],
    graph: RegionGraph | None,
    names: Sequence[str],
) -> None:
    """Writes a picture of a few examples: animated (.webp, .gif) or frames in rows (.png).

    Raises:
      UserError: another suffix.
    """
    path = Path(path)
    kind = PICTURE_KINDS.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"--picture={path}: the name must end in .webp, .gif or .png")
    if not examples:
        raise UserError(f"--picture={path}: there are no examples to draw; raise --examples")
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = examples[:PICTURE_EXAMPLES]
    if kind == "PNG":
        sheet = panels.strip(shown, graph, names, side=PICTURE_SIDE, edges=html_report.EDGES)
        sheet.save(path, optimize=True)
    else:
        frames = panels.gallery(shown, graph, names, side=PICTURE_SIDE, edges=html_report.EDGES)
        path.write_bytes(panels.encode(frames, kind))


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing: finish the training first (train.py --workdir={path.parent})"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON ({error}): train again to renew it") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m rstg_jax.report", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--workdir", required=True, help="directory of the training run")
    parser.add_argument("--examples", type=int, default=12, help="test videos shown (12)")
    parser.add_argument("--picture", help="also write a .webp, .gif or .png of three of them")
    args, rest = parser.parse_known_args(argv)
    if args.examples < 0:
        parser.error(f"--examples={args.examples} cannot be negative")
    overrides = cli.config_overrides(rest, parser)
    record = read_record(args.workdir)
    step = str(record.result["steps"])  # the figures are those of the last step
    examples, graph = load_examples(args.workdir, step, args.examples, overrides)
    if args.picture:
        write_picture(args.picture, examples, graph, record.label_names)
        print(f"picture: {args.picture}")
    path = Path(args.workdir) / "report.html"
    path.write_text(html_report.render(record, examples, graph))
    print(f"report: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
