"""Names the most likely labels of videos with a trained model.

    python -m rstg_jax.predict --workdir=DIR [--step=last|best|N] [--json] VIDEO...

VIDEO is a file (.npy, .gif, .webp, .mp4, .webm, ...; see `rstg_jax.videos` for how its frames are
fitted to the model) or a range of the test set such as test:0-9. Files that cannot be read are
named, the others are still done, and the exit status is then 1.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rstg_jax import checkpoint, cli, evaluate, videos
from rstg_jax.errors import UserError

RANGE = re.compile(r"(test|train):(\d+)(?:-(\d+))?")


class Predictor:
    """A checkpoint ready to name what a video shows. Compiles once a number of frames."""

    def __init__(self, loaded: checkpoint.Loaded, top: int = 5):
        self._variables = loaded.variables
        self._names = loaded.label_names
        self._top = min(top, len(loaded.label_names))

        def probabilities(variables: Mapping[str, Any], video: jax.Array) -> jax.Array:
            logits, _ = loaded.module.apply(variables, video, train=False)
            return jax.nn.softmax(logits.mean(0))

        self._apply = jax.jit(probabilities)

    def __call__(self, video: np.ndarray) -> list[dict[str, Any]]:
        """Predicts one video, uint8 [t h w c], or [v t h w c]: logits are averaged over views.

        Returns:
          The most likely labels, best first, as ``{"label": name, "probability": p}``.
        """
        views = video if video.ndim == 5 else video[None]
        p = np.asarray(self._apply(self._variables, views))
        order = np.argsort(-p, kind="stable")[: self._top]
        return [{"label": self._names[i], "probability": float(p[i])} for i in order]


def find_videos(
    loaded: checkpoint.Loaded, wanted: Sequence[str]
) -> Iterator[tuple[str, np.ndarray | UserError, str | None]]:
    """Yields (name, frames or what is wrong with them, true label if known)."""
    shape = tuple(loaded.meta["video_shape"])
    for name in wanted:
        match = RANGE.fullmatch(name)
        try:
            if match is None:
                yield name, videos.read(name, loaded.experiment.data, shape), None
                continue
            source = evaluate.open_split(loaded.experiment, match[1])
            first, last = int(match[2]), int(match[3] or match[2])
            if not first <= last < len(source):
                raise UserError(f"{name}: {source.name} has the examples 0 to {len(source) - 1}")
        except UserError as error:
            yield name, error, None
            continue
        for index in range(first, last + 1):
            batch = source.batch(np.array([index], np.int64))
            truth = loaded.label_names[int(batch["label"][0])]
            yield f"{match[1]}:{index}", batch["video"][0], truth


def predict(
    loaded: checkpoint.Loaded, wanted: Sequence[str], top: int = 5
) -> Iterator[dict[str, Any]]:
    """Predicts files and ranges, one record a video.

    Yields:
      ``{"video": name, "frames": t, "predictions": [...]}``, with ``"truth"`` where it is known;
      or ``{"video": name, "error": what is wrong}``.
    """
    predictor = Predictor(loaded, top)
    for name, video, truth in find_videos(loaded, wanted):
        if isinstance(video, UserError):
            yield {"video": name, "error": str(video)}
            continue
        record = {"video": name, "frames": video.shape[-4], "predictions": predictor(video)}
        yield record if truth is None else record | {"truth": truth}


def print_table(records: Sequence[dict[str, Any]]) -> None:
    """Prints a line a video: its most likely labels with their probabilities."""
    width = max((len(r["video"]) for r in records), default=0)
    for record in records:
        best = "  ".join(f"{p['label']} {p['probability']:.1%}" for p in record["predictions"])
        mark = ""
        if "truth" in record:
            right = record["truth"] == record["predictions"][0]["label"]
            mark = "  (right)" if right else f"  (truth: {record['truth']})"
        print(f"{record['video']:<{width}}  {best}{mark}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m rstg_jax.predict",
        description=(__doc__ or "").strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, help="directory of the training run")
    parser.add_argument("--step", default="last", help="last (default), best, or a number")
    parser.add_argument("--json", action="store_true", help="print one JSON list instead")
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="file, or test:0-9")
    args, rest = parser.parse_known_args(argv)
    overrides = cli.config_overrides(rest, parser)
    loaded = checkpoint.load(args.workdir, args.step, overrides, jax.local_devices()[:1])
    records = list(predict(loaded, args.videos))
    failed = [record for record in records if "error" in record]
    if args.json:
        print(json.dumps(records, indent=1))
    else:
        print_table([record for record in records if "error" not in record])
    for record in failed:
        print(f"error: {record['error']}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
