"""Predicts the labels of videos with a trained model.

    python -m rstg_jax.predict --workdir=DIR [--step=last|best|N] [--json]
        [--protocol=center|dense|tsm|tsn|NxM] [--visualise=FILE.mp4] VIDEO...
    python -m rstg_jax.predict --weights=kinetics/i3d|FILE.safetensors ... VIDEO...
    python -m rstg_jax.predict --workdir=DIR --timeline=OUT [--window=SECONDS]
        [--every=SECONDS | --stream] VIDEO...

The model is that of a run, one of the published ones in `rstg_jax.inference.known_weights`, or of
a file that `python -m rstg_jax.convert.export` wrote.

VIDEO is a file (.npy, .gif, .webp, .mp4, .webm, ...), whose frames are fitted to the model as in
testing, a directory (all videos in it and below; one that holds images is one video) or a range of
a split such as test:0-9. Protocols are those of `rstg_jax.inference.protocols`. Every result is
printed as it comes. ``--config.data.KEY=VALUE`` changes how clips are taken, or says where the data
of a split lies now. Files that cannot be read are named on stderr, the others are still predicted,
and the exit status is then 1.

--visualise draws region graph, messages and labels over the frames, see
`rstg_jax.viz.annotate_video`: into FILE (.mp4, .webm, .gif, .webp), or as one video each into a
directory, with a page index.html that shows them all.

--timeline is for long videos: it writes labels over time, as OUT/NAME.json, .csv, .vtt (subtitles)
and .svg (a picture), see `rstg_jax.inference.timeline`. Parts of --window seconds (as many frames
as the model's clips have) are predicted --every so many seconds (half a window); with --stream
they follow one another, and the model remembers those before.
"""

import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from rstg_jax import cli
from rstg_jax.inference import known_weights, predictor, timeline
from rstg_jax.training import trained_model
from rstg_jax.training.experiment import Experiment
from rstg_jax.viz import annotate_video, prediction_page, timeline_files

LONG = 20  # characters of a label that gets a line of its own


def drawing(
    model: trained_model.TrainedModel,
    videos: predictor.Videos,
    requests: Sequence[predictor.VideoRequest],
    out: Path,
) -> Callable[[int], Path]:
    """Returns a function that draws the video of a number in `requests`, for `--visualise`."""
    paths = annotate_video.output_paths(out, [request.name for request in requests])
    visualiser = annotate_video.Visualiser(model)
    if not visualiser.has_graph:
        name = model.experiment.name
        print(f"{name} has no region graph: only its labels are drawn", file=sys.stderr)

    def draw(number: int) -> Path:
        visualiser.write(videos.original(requests[number]), paths[number])
        return paths[number]

    return draw


def print_json(records: Iterable[dict[str, Any]]) -> None:
    """Prints records as one JSON list, each as it comes; the list is whole even if they stop."""
    print("[", end="")
    separator = "\n"
    try:
        for record in records:
            text = textwrap.indent(json.dumps(record, indent=1), " ")
            print(separator + text, end="", flush=True)
            separator = ",\n"
    finally:
        print("\n]")


def print_written(records: Iterable[dict[str, Any]]) -> None:
    """Prints the first file of each timeline, and the others' suffixes, as they are written."""
    for record in records:
        if "written" in record:
            first, *others = map(Path, record["written"])
            suffixes = ", ".join(path.suffix for path in others)
            parts = "1 part" if record["parts"] == 1 else f"{record['parts']} parts"
            print(f"{record['video']}: {parts}, {first}, {suffixes}", flush=True)


def print_lines(records: Iterable[dict[str, Any]], width: int, long: bool) -> None:
    """Prints the most likely labels of each video as they come.

    Args:
      records: From `predictor.predict`; those without predictions are left out.
      width: Of the names of videos, in characters.
      long: Whether labels are so long that each gets a line.
    """
    for record in records:
        if "predictions" not in record:
            continue
        mark = ""
        if "truth" in record:
            truth = [record["truth"]] if isinstance(record["truth"], str) else record["truth"]
            named = f"truth: {', '.join(truth) or 'none'}"
            right = record["predictions"][0]["label"] in truth  # as top1 counts
            mark = f"  (right{'; ' + named if len(truth) > 1 else ''})" if right else f"  ({named})"
        if long:
            print(f"{record['video']}{mark}")
            for p in record["predictions"]:
                print(f"  {p['probability']:>6.1%}  {p['label']}")
        else:
            best = "  ".join(f"{p['label']} {p['probability']:.1%}" for p in record["predictions"])
            print(f"{record['video']:<{width}}  {best}{mark}")
        sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = cli.command_parser("rstg_jax.predict", __doc__, whole=True)
    known_weights.add_flags(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON list instead")
    parser.add_argument("--visualise", type=Path, metavar="FILE.mp4", help="or a directory")
    parser.add_argument("--timeline", type=Path, metavar="OUT", help="directory")
    parser.add_argument("--window", type=float, metavar="SECONDS", help="length of its parts")
    parser.add_argument("--every", type=float, metavar="SECONDS", help="from start to start")
    parser.add_argument("--stream", action="store_true", help="remember the parts before")
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="file, directory, or test:0-9")
    args, overrides = cli.parse(parser, argv, config_class=Experiment)
    if args.timeline and args.visualise:
        parser.error("--timeline and --visualise: give one of them")
    if not args.timeline and (args.window or args.every or args.stream):
        parser.error("--window, --every and --stream belong to --timeline")
    cut = timeline.Cut(args.window, args.every, args.stream)
    cli.keep_compiled_programs()
    model = known_weights.chosen(args, overrides, jax.local_devices()[:1])
    videos = predictor.Videos(model)
    requests = videos.find(args.videos)
    done: list[dict[str, Any]] = []
    if args.timeline:
        found = timeline_files.predict(model, videos, requests, args.timeline, cut)
    else:
        draw = drawing(model, videos, requests, args.visualise) if args.visualise else None
        found = predictor.predict(model, videos, requests, draw=draw)

    def records() -> Iterator[dict[str, Any]]:
        for record in found:
            if "error" in record:
                print(f"error: {record['error']}", file=sys.stderr)
            done.append(record)
            yield record

    if args.json:
        print_json(records())
    elif args.timeline:
        print_written(records())
    else:
        width = max(len(request.name) for request in requests)
        print_lines(records(), width, any(len(label) > LONG for label in model.label_names))
    if args.visualise and args.visualise.is_dir():
        name, labels = model.experiment.name, len(model.label_names)
        page = prediction_page.write(args.visualise, name, labels, done)
        print(f"page: {page}", file=sys.stderr)
    return 1 if any("error" in record for record in done) else 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
