"""What the lists of public data sets have in common: lines, rows of csv files, JSON."""

import functools
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rstg_jax import files
from rstg_jax.data.video.listing import Video
from rstg_jax.errors import UserError, named, quoted

_log = logging.getLogger(__name__)


class Lists(NamedTuple):
    """Names of the labels in order, and the videos of a split."""

    label_names: list[str]
    videos: list[Video]


@functools.cache
def warn_once(text: str) -> None:
    """Logs a warning that it has not logged before: lists are read several times."""
    _log.warning("%s", text)


def once(file: Path, found: Iterable[tuple[int, Video]], noun: str = "line") -> list[Video]:
    """The videos of a list, each once: published lists name some twice, which a warning counts.

    Args:
      file: The list.
      found: Its videos, with the number of the line or entry of each.
      noun: What is numbered.

    Raises:
      UserError: Two rows say different things of a video.
    """
    first: dict[str, tuple[int, Video]] = {}
    repeated = []
    for number, video in found:
        if video.name not in first:
            first[video.name] = number, video
            continue
        before, same = first[video.name]
        if (set(video.labels), video.frames) != (set(same.labels), same.frames):
            raise UserError(
                f"{file}: {noun} {before} has {_said(same)} for {video.name}, {noun} {number} "
                f"{_said(video)}: remove the wrong one"
            )
        repeated.append(f"{video.name} in {noun} {number}")
    if repeated:
        warn_once(f"{file}: named again, and used once: {named(repeated, ', ')}")
    return [video for _, video in first.values()]


def _said(video: Video) -> str:
    """The labels of a video, and its frames if it is a segment."""
    frames = f" of frames {video.frames.start} to {video.frames.stop}" if video.frames else ""
    return f"{quoted(', '.join(video.labels))}{frames}"


def lines(file: Path) -> Iterator[tuple[int, str]]:
    """Lines of a list that are not empty, from 1, without the blanks around them."""
    for number, line in enumerate(files.read_text(file).splitlines(), start=1):
        if text := line.strip():
            yield number, text


def rows(file: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a csv file whose header has some columns at least, with their lines."""
    table = ((line, cells) for line, cells in files.read_csv(file, ",") if any(cells))
    _, header = next(table, (0, []))
    if missing := [name for name in columns if name not in header]:
        raise UserError(f"{file}: has no column {missing[0]!r}")
    for line, cells in table:
        yield line, dict(itertools.zip_longest(header, cells, fillvalue=""))


def json_list(file: Path) -> list[Any]:
    """The content of a JSON file that is a list."""
    content = files.read_json(file)
    if not isinstance(content, list):
        raise UserError(f"{file}: is no list")
    return content
