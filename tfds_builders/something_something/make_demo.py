"""Draws a small Something-Something in the layout of the official download.

    python -m tfds_builders.something_something.make_demo --out=DIR [--layout=v1|v2] [--clips=N]
        [--height=N] [--seed=N] [--processes=N] [--picture=FILE]

Objects, hands and backgrounds are drawn. The actions are twelve of the real classes that only the
order of frames distinguishes (`demo_actions`). V2 is VP9 at 12 frames per second with json files,
V1 folders of JPEGs with csv files. Clip i of a split depends only on (seed, split, i) and height.
The default of 1,488 clips takes 2.5 minutes on one core and 27 MB.
"""

import dataclasses
import functools
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import tqdm
from PIL import Image, ImageDraw, ImageFont

from rstg_jax import cli
from rstg_jax.errors import UserError
from rstg_jax.viz.video_writer import VIDEO_CODECS, encode_video
from tfds_builders import processes as processes_lib
from tfds_builders.something_something import demo_actions
from tfds_builders.something_something.demo_actions import ACTIONS, FPS, Action

LAYOUTS = ("v1", "v2")
SPLITS = ("train", "validation", "test")
CLIPS, HEIGHT = 1200, 112  # for training; pixels
# The fastest setting of VP9: 39 clips/s per core at a height of 112, five times as fast as the
# default, with files 1.5 times as large.
_VP9 = {"deadline": "realtime", "cpu-used": "8", "crf": "32", "b": "0"}
_JPEG_QUALITY = 90
_SHEET_FRAMES, _SHEET_TEXT = 8, 15


@dataclasses.dataclass(frozen=True)
class Clip:
    """A clip to draw.

    Attributes:
      split: One of `SPLITS`.
      index: In the split; with seed and split, all that is random depends on it.
      id: Name of the file, numbers in no order.
    """

    split: str
    index: int
    id: str

    @property
    def action(self) -> Action:
        """What happens: every class equally often."""
        return ACTIONS[self.index % len(ACTIONS)]

    def video(self, seed: int, height: int) -> tuple[np.ndarray, list[str]]:
        """Frames uint8 [t h w 3] and names of the objects."""
        rng = np.random.default_rng([seed, SPLITS.index(self.split), self.index])
        return demo_actions.video(self.action, rng, height)


def plan(num_train: int, seed: int) -> list[Clip]:
    """Clips of all splits: for five of training one of validation, for 25 one of test."""
    each = len(ACTIONS)
    sizes = [num_train, max(num_train // 5, each), max(num_train // 25, each)]
    rng = np.random.default_rng([seed, len(SPLITS)])
    ids = iter((rng.permutation(sum(sizes)) + 1).tolist())
    return [
        Clip(split, index, str(next(ids)))
        for split, size in zip(SPLITS, sizes, strict=True)
        for index in range(size)
    ]


def make_demo(
    out: pathlib.Path,
    *,
    layout: str = "v2",
    clips: int = CLIPS,
    height: int = HEIGHT,
    seed: int = 0,
    processes: int = 1,
) -> None:
    """Writes the demo data into a directory that is empty or not there.

    Raises:
      UserError: If the directory is in use or cannot be written, or a number is out of range.
    """
    if clips < len(ACTIONS) or height < 32 or height % 2 or processes < 1 or seed < 0:
        raise UserError(
            f"--clips={clips} must be at least {len(ACTIONS)}, --height={height} even and at least "
            f"32, --processes={processes} at least 1, --seed={seed} at least 0"
        )
    try:
        if out.exists() and any(out.iterdir()):
            raise UserError(f"{out} is not empty: give --out another name or delete it")
        folder = out / f"20bn-something-something-{layout}"
        folder.mkdir(parents=True, exist_ok=True)
        write = functools.partial(_write, folder=folder, layout=layout, height=height, seed=seed)
        names: dict[Clip, list[str]] = {}
        todo = plan(clips, seed)
        made = processes_lib.in_processes(write, todo, processes)
        for clip, placeholders in tqdm.tqdm(made, total=len(todo), unit=" clips"):
            names[clip] = placeholders
        (_annotate_v1 if layout == "v1" else _annotate_v2)(
            out, sorted(todo, key=lambda clip: clip.id), names
        )
    except OSError as e:
        raise UserError(f"{e.filename or out}: {e.strerror}") from e
    print(f"{out}: {len(todo):,} clips of {len(ACTIONS)} classes.")


def _write(
    clip: Clip, folder: pathlib.Path, layout: str, height: int, seed: int
) -> tuple[Clip, list[str]]:
    frames, names = clip.video(seed, height)
    if layout == "v2":
        write_webm(folder / f"{clip.id}.webm", frames)
    else:
        write_jpegs(folder / clip.id, frames)
    return clip, names


def write_webm(path: pathlib.Path, frames: np.ndarray) -> None:
    """Writes uint8 [t h w 3] as VP9."""
    images = map(Image.fromarray, frames)
    # Without "bitexact" every file gets a random number.
    container = {"format": "webm", "options": {"fflags": "+bitexact"}}
    codec = VIDEO_CODECS[".webm"]
    encode_video(images, path, FPS, codec, codec_options=_VP9, threads=1, **container)


def write_jpegs(folder: pathlib.Path, frames: np.ndarray) -> None:
    """Writes uint8 [t h w 3] as 00001.jpg, 00002.jpg, ..."""
    folder.mkdir()
    for k, frame in enumerate(frames, 1):
        Image.fromarray(frame).save(folder / f"{k:05d}.jpg", quality=_JPEG_QUALITY)


def _annotate_v2(out: pathlib.Path, clips: Sequence[Clip], names: dict[Clip, list[str]]) -> None:
    labels = out / "labels"
    labels.mkdir()

    def write(name: str, content: Any) -> None:
        (labels / f"{name}.json").write_text(json.dumps(content, indent=0), "utf-8")

    def entry(clip: Clip) -> dict[str, Any]:
        if clip.split == "test":
            return {"id": clip.id}
        return {
            "id": clip.id,
            "label": clip.action.caption(names[clip]),
            "template": clip.action.template,
            "placeholders": names[clip],
        }

    write("labels", {action.name: str(k) for k, action in enumerate(ACTIONS)})
    for split in SPLITS:
        write(split, [entry(clip) for clip in clips if clip.split == split])
    answers = [f"{clip.id};{clip.action.name}\n" for clip in clips if clip.split == "test"]
    (labels / "test-answers.csv").write_text("".join(answers), "utf-8")


def _annotate_v1(out: pathlib.Path, clips: Sequence[Clip], names: dict[Clip, list[str]]) -> None:
    del names  # V1 does not tell

    def write(name: str, lines: Sequence[str]) -> None:
        path = out / f"something-something-v1-{name}.csv"
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8")

    write("labels", [action.name for action in ACTIONS])
    for split in SPLITS:
        some = [clip for clip in clips if clip.split == split]
        answers = [f"{clip.id};{clip.action.name}" for clip in some]
        write(split, [clip.id for clip in some] if split == "test" else answers)


def picture(seed: int, height: int) -> Image.Image:
    """Draws a sheet with the first training clip of each class, one row of frames per class."""
    width = round(height * 16 / 9)
    step = height + _SHEET_TEXT
    sheet = Image.new("RGB", (_SHEET_FRAMES * (width + 2), len(ACTIONS) * step), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_SHEET_TEXT - 4)
    for row, clip in enumerate(plan(len(ACTIONS), seed)[: len(ACTIONS)]):
        frames, names = clip.video(seed, height)
        text = f"{clip.action.name}: {', '.join(names)} ({len(frames)} frames)"
        draw.text((2, row * step), text, "black", font)
        shown = np.linspace(0, len(frames) - 1, _SHEET_FRAMES).astype(int)
        for column, frame in enumerate(frames[shown]):
            sheet.paste(Image.fromarray(frame), (column * (width + 2), row * step + _SHEET_TEXT))
    return sheet


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = cli.command_parser("tfds_builders.something_something.make_demo", __doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="directory to write to")
    parser.add_argument("--layout", choices=LAYOUTS, default="v2")
    parser.add_argument("--clips", type=int, default=CLIPS, help="for training; tests add 24%%")
    parser.add_argument("--height", type=int, default=HEIGHT, help="pixels; official: 240, V1 100")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--picture", type=pathlib.Path, help="also draw a sheet of all classes")
    flags = vars(parser.parse_args(argv))
    file = flags.pop("picture")
    with processes_lib.stoppable("delete what was written and start again"):
        make_demo(flags.pop("out"), **flags)
    if file:
        try:
            picture(flags["seed"], flags["height"]).save(file)
        except (OSError, ValueError) as e:
            raise UserError(f"{file}: cannot be written ({e})") from e
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
