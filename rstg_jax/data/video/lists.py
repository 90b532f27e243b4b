"""What the lists of public data sets have in common: lines, rows of csv files, JSON."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rstg_jax import files
from rstg_jax.data.video.listing import Video
from rstg_jax.errors import UserError


class Lists(NamedTuple):
    """Names of the labels in order, and the videos of a split."""

    label_names: list[str]
    videos: list[Video]


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
