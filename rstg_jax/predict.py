"""Names the most likely labels of videos with a trained model.

    python -m rstg_jax.predict --workdir=DIR [--step=last|best|N] [--json]
        [--protocol=center|dense|NxM] [--visualise=FILE.mp4] VIDEO...

VIDEO is a file (.npy, .gif, .webp, .mp4, .webm, ...; see `rstg_jax.inference.video_input` for how
its frames are fitted to the model), a directory (all videos in it and below; one that holds images
is one video) or a range of a split such as test:0-9. Protocols are those of
`rstg_jax.inference.protocols`. Files that cannot be read are named, the others are still done, and
the exit status is then 1.

--visualise draws region graph, messages and labels over the frames, see
`rstg_jax.viz.annotate_video`: into FILE (.mp4, .webm, .gif, .webp), or as one film a video into a
directory.
"""

import argparse
import dataclasses
import functools
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rstg_jax import cli, evaluate
from rstg_jax.data.video import decode
from rstg_jax.data.video.clip_source import ClipSource
from rstg_jax.errors import UserError
from rstg_jax.inference import protocols, video_input
from rstg_jax.training import checkpoint, steps
from rstg_jax.viz import annotate_video

RANGE = re.compile(r"(train|validation|test):(\d+)(?:-(\d+))?")
LONG = 20  # letters of a label that does not share a line with others
VIDEO_KINDS = (
    *decode.VIDEO_EXTENSIONS,
    ".gif",
    ".webp",
    ".apng",
    ".npy",
)  # looked for in directories


@dataclasses.dataclass(frozen=True)
class VideoRequest:
    """A video to be named.

    Attributes:
      name: path of a file, or split and index.
      split: the split's own name; empty for a file.
      index: in it.
      error: why there is no such video, or None.
    """

    name: str
    split: str = ""
    index: int = 0
    error: UserError | None = None


class Predictor:
    """A checkpoint ready to name what a video shows. Compiles once a shape of videos."""

    def __init__(self, loaded: checkpoint.Loaded, top: int = 5):
        protocols.check_fits(loaded)
        self._variables = loaded.variables
        self._names = loaded.label_names

        def ranking(variables: Mapping[str, Any], video: jax.Array) -> dict[str, jax.Array]:
            logits = steps.classify(loaded.module, variables, video[None])
            return jax.tree.map(lambda x: x[0], steps.ranking(logits, top))

        self._ranking = jax.jit(ranking)

    def __call__(self, video: np.ndarray) -> list[dict[str, Any]]:
        """Predicts one video, uint8 [t h w c], or [v t h w c]: logits are averaged over views.

        Returns:
          The most likely labels, best first, as ``{"label": name, "probability": p}``.
        """
        best = jax.device_get(self._ranking(self._variables, video))
        return evaluate.as_records(best["label"], best["probability"], self._names)


class Videos:
    """Reads videos for a model, each as testing would.

    Args:
      loaded: the model; its data configuration says how often a video is seen.
    """

    def __init__(self, loaded: checkpoint.Loaded):
        self._loaded = loaded
        self._open = functools.cache(lambda split: evaluate.open_named(loaded.experiment, split)[0])

    def find(self, names: Sequence[str]) -> list[VideoRequest]:
        """Finds what the words of the command line mean."""
        found: list[VideoRequest] = []
        for name in names:
            match = RANGE.fullmatch(name)
            if match is None:
                found += map(VideoRequest, expand(name))
                continue
            split, first, last = match[1], int(match[2]), int(match[3] or match[2])
            try:
                source = self._open(split)
                if not first <= last < len(source):
                    examples = f"the examples 0 to {len(source) - 1}"
                    raise UserError(f"{name}: {source.name} has {examples}")
            except UserError as error:
                found.append(VideoRequest(name, error=error))
                continue
            found += [
                VideoRequest(f"{split}:{index}", split, index) for index in range(first, last + 1)
            ]
        return found

    def read(self, request: VideoRequest) -> tuple[np.ndarray, dict[str, Any]]:
        """Reads a video.

        Returns:
          uint8 `[t h w c]` or `[v t h w c]`, and what is known of it: ``id``, ``truth``.

        Raises:
          UserError: it cannot be read; the message names it.
        """
        if request.error is not None:
            raise request.error
        if not request.split:
            shape = tuple(self._loaded.meta["video_shape"])
            return video_input.read(request.name, self._loaded.experiment.data, shape), {}
        batch = self._open(request.split).batch(np.array([request.index], np.int64))
        known = {"id": str(batch["id"][0])} if "id" in batch else {}
        label = int(batch["label"][0])
        if label >= 0:
            known["truth"] = self._loaded.label_names[label]
        return batch["video"][0], known

    def original(self, request: VideoRequest) -> decode.Encoded | np.ndarray:
        """The video itself: encoded where it is, frames uint8 `[t h w c]` where it never was."""
        if not request.split:
            return Path(request.name)
        source = self._open(request.split)
        if isinstance(source, ClipSource):
            return source.clip(request.index).encoded
        return source.batch(np.array([request.index], np.int64))["video"][0]


def expand(name: str) -> list[str]:
    """The videos of a directory, in the order of their names; the name itself of anything else."""
    root = Path(name)
    if not root.is_dir():
        return [name]
    files = [
        file
        for file in root.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(root).parts)
    ]
    films = {file for file in files if file.suffix.lower() in VIDEO_KINDS}
    folders = {file.parent for file in files if file.suffix.lower() in decode.STILLS}
    folders -= {film.parent for film in films}
    return [str(path) for path in sorted(films | folders)] or [name]


def predict(
    loaded: checkpoint.Loaded, names: Sequence[str], top: int = 5, out: Path | None = None
) -> Iterator[dict[str, Any]]:
    """Predicts files, directories and ranges, one record a video.

    Args:
      loaded: the model.
      names: as on the command line.
      top: labels of a record.
      out: where to draw the videos to, see `rstg_jax.viz.annotate_video`.

    Yields:
      ``{"video": name, "frames": t, "predictions": [...]}``, with ``"id"`` and ``"truth"`` where
      they are known and ``"drawn"`` where it was; ``{"video": name, "error": what is wrong}`` if it
      cannot be read, and all of it if it cannot be drawn.
    """
    source, predictor = Videos(loaded), Predictor(loaded, top)
    found = source.find(names)
    paths: list[Path | None] = [None] * len(found)
    if out is not None:
        paths = list(annotate_video.output_paths(out, [request.name for request in found]))
        painter = annotate_video.Visualiser(loaded)
        if not painter.has_graph:
            print(
                f"{loaded.experiment.name} has no region graph: only its labels are drawn",
                file=sys.stderr,
            )
    for request, path in zip(found, paths, strict=True):
        record: dict[str, Any] = {"video": request.name}
        try:
            video, known = source.read(request)
            record |= {"frames": video.shape[-4], "predictions": predictor(video)} | known
            if path is not None:
                painter.write(source.original(request), path)
                record["drawn"] = str(path)
        except UserError as error:
            text = str(error)
            record["error"] = text if request.name in text else f"{request.name}: {text}"
        yield record


def print_table(records: Sequence[dict[str, Any]]) -> None:
    """Prints the most likely labels of each video: in a line, or long names one below another."""
    width = max((len(r["video"]) for r in records), default=0)
    labels = [p["label"] for record in records for p in record["predictions"]]
    long = any(len(label) > LONG for label in labels)
    for record in records:
        mark = ""
        if "truth" in record:
            right = record["truth"] == record["predictions"][0]["label"]
            mark = "  (right)" if right else f"  (truth: {record['truth']})"
        if long:
            print(f"{record['video']}{mark}")
            for p in record["predictions"]:
                print(f"  {p['probability']:>6.1%}  {p['label']}")
        else:
            best = "  ".join(f"{p['label']} {p['probability']:.1%}" for p in record["predictions"])
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
    parser.add_argument("--protocol", help="center, dense or NxM; the config's own if absent")
    parser.add_argument("--json", action="store_true", help="print one JSON list instead")
    parser.add_argument("--visualise", type=Path, metavar="FILE.mp4", help="film, or directory")
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="file, directory, or test:0-9")
    args, overrides = cli.parse(parser, argv, files=True)
    cli.keep_compiled_programs()
    loaded = checkpoint.load(args.workdir, args.step, overrides, jax.local_devices()[:1])
    loaded = loaded.with_data(protocols.with_protocol(loaded.experiment.data, args.protocol))
    records = list(predict(loaded, args.videos, out=args.visualise))
    failed = [record for record in records if "error" in record]
    if args.json:
        print(json.dumps(records, indent=1))
    else:
        print_table([record for record in records if "predictions" in record])
    for record in failed:
        print(f"error: {record['error']}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
