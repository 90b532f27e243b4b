"""Boxes of objects beside the frames of clips, from a file of any detector or of Something-Else.

They go through what the frames go through: resize, crop, mirror and the choice of frames.

One JSON file, or a directory of several, each an object with an entry for each video. Its key is
the id of the video in the data set (the number of a Something-Something clip, the path of a file
below the directory of videos), its value one of

- `{"0": [[x0, y0, x1, y1, score], ...], "1": ...}`: frames, counted from 0, and their boxes. The
  score may be left out. Frames without boxes may be left out.
- a list as in Something-Else's annotations of Something-Something v2:
  `[{"name": "2/0001.jpg", "labels": [{"box2d": {"x1": ..., "y1": ..., "x2": ..., "y2": ...}}]}]`,
  whose names count frames from 1.

Coordinates are in pixels, x to the right and y downwards.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from rstg_jax import files
from rstg_jax.data.video.clip_transforms import Place
from rstg_jax.errors import UserError

_BLANKS = re.compile(r"[ \t\n\r]*")
_log = logging.getLogger(__name__)


class BoxesError(UserError):
    """Raised for boxes that do not fit a clip; no other clip takes the place of it."""


@dataclasses.dataclass(frozen=True)
class BoxesConfig:
    """Boxes beside the frames.

    Attributes:
      per_frame: Boxes of each frame in a batch; 0 for none. Of more boxes those of the highest
        score are taken, or the first ones where there are no scores; where there are fewer, boxes
        without area take their place.
      path: A JSON file, or a directory of several, see `rstg_jax.data.video.boxes`.
      height: Height in pixels of the frames on which the boxes were found, if the videos have been
        made larger or smaller since then; 0 if they have not.
      missing: What to do with a video that the file does not have: "stop" is an error that names
        it, "none" takes it as one without boxes.
    """

    per_frame: int = 0
    path: str = ""
    height: int = 0
    missing: Literal["stop", "none"] = "stop"

    def __post_init__(self) -> None:
        for key in ("per_frame", "height"):
            if getattr(self, key) < 0:
                raise UserError(f"{key}={getattr(self, key)} cannot be negative")
        if self.path and not self.per_frame:
            raise UserError(f"path={self.path} needs per_frame above 0")

    def read(self) -> "Boxes | None":
        """Reads the boxes; None if none are wanted.

        Raises:
          UserError: They cannot be read; names the file and the video.
        """
        if not self.per_frame:
            return None
        if not self.path:
            raise UserError(
                "boxes.path: name a JSON file of boxes, or a directory of several (docs/data.md)"
            )
        sources = _sources(Path(self.path).expanduser())
        stamps = tuple((source, source.stat().st_mtime_ns) for source in sources)
        return Boxes(self, _read(stamps))


class Table(NamedTuple):
    """All boxes of a data set.

    Attributes:
      rows: Id of a video -> its rows, which are sorted by frame, and by falling score in a frame.
      frames: int32 `[rows]`.
      corners: x0 y0 x1 y1 in pixels, float32 `[rows 4]`.
      sha256: Begin of a checksum of all this.
    """

    rows: dict[str, slice]
    frames: np.ndarray
    corners: np.ndarray
    sha256: str


class Boxes:
    """Boxes of the videos of a data set.

    Args:
      config: What is wanted of them.
      table: All of them.

    Attributes:
      sha256: Of the boxes, to be recorded.
    """

    def __init__(self, config: BoxesConfig, table: Table):
        self._config, self._table, self.sha256 = config, table, table.sha256

    def beside(self, video: str, place: Place) -> np.ndarray:
        """Boxes beside the frames of a clip.

        Args:
          video: Its id.
          place: Where the clip is in the video.

        Returns:
          float32 `[t per_frame 4]`, y0 x0 y1 x1 in fractions of the frames of the clip. What lies
          beyond them is cut off.

        Raises:
          BoxesError: The file has no such video, or boxes of frames that the video has not.
        """
        config, table = self._config, self._table
        found = np.zeros((len(place.frames), config.per_frame, 4), np.float32)
        if video not in table.rows:
            if config.missing == "none":
                return found
            raise BoxesError(
                f"{config.path}: has no video {video!r}; "
                "data.boxes.missing=none takes it as one without boxes"
            )
        rows = table.rows[video]
        frames = table.frames[rows]
        if len(frames) and frames[-1] >= place.length:
            raise BoxesError(
                f"{config.path}: video {video!r} has boxes of frame {frames[-1]}, but its frames "
                f"are 0 to {place.length - 1}"
            )
        scale = place.size[1] / config.height if config.height else 1.0
        boxes = moved(table.corners[rows] * scale, place)
        for t, frame in enumerate(place.frames):
            here = boxes[slice(*np.searchsorted(frames, (frame, frame + 1)))]
            here = here[(here[:, 2:] > here[:, :2]).all(axis=1)][: config.per_frame]
            found[t, : len(here)] = here
        return found


def moved(corners: np.ndarray, place: Place) -> np.ndarray:
    """Boxes of the frames of a video in a clip of it.

    Args:
      corners: x0 y0 x1 y1 in pixels of the video, `[rows 4]`.
      place: Where the clip is in the video.

    Returns:
      y0 x0 y1 x1 in fractions of the clip's frame, cut off at its border, float32 `[rows 4]`.
    """
    left, top, right, bottom = place.part
    x = np.clip((corners[:, 0::2] - left) / (right - left), 0, 1)
    y = np.clip((corners[:, 1::2] - top) / (bottom - top), 0, 1)
    if place.mirrored:
        x = 1 - x[:, ::-1]
    return np.stack([y[:, 0], x[:, 0], y[:, 1], x[:, 1]], axis=1).astype(np.float32)


def _sources(path: Path) -> list[Path]:
    """The JSON files of a path."""
    found = sorted(path.glob("[!.]*.json")) if path.is_dir() else [path]
    if not found or not path.exists():
        raise UserError(f"boxes.path={path}: no such JSON file, or directory of JSON files")
    return found


@functools.lru_cache(maxsize=1)  # both splits read the same
def _read(stamps: tuple[tuple[Path, int], ...]) -> Table:
    """Reads files whose paths and times are given.

    A video at a time, as a file of Something-Else would take ten times its size as Python objects.
    """
    frames, corners, lengths = [], [], {}
    for file, _ in stamps:
        for video, value in _entries(file):
            if video in lengths:
                raise UserError(f"{file}: has video {video!r} a second time")
            frame, box = _rows(file, video, value)
            frames.append(frame)
            corners.append(box)
            lengths[video] = len(frame)
    first = stamps[0][0]
    where = first if len(stamps) == 1 else first.parent
    if not lengths:
        raise UserError(f"{where}: has no video")
    ends = np.cumsum(list(lengths.values())).tolist()
    rows = {
        video: slice(end - length, end)
        for (video, length), end in zip(lengths.items(), ends, strict=True)
    }
    table = Table(rows, np.concatenate(frames), np.concatenate(corners), "")
    flat = int((table.corners[:, 2:] <= table.corners[:, :2]).any(axis=1).sum())
    if flat:
        count = len(table.corners)
        _log.warning("%s: %d of %d boxes have no area: unused", where, flat, count)
    content = hashlib.sha256(json.dumps(lengths).encode())
    content.update(table.frames.tobytes() + table.corners.tobytes())
    return table._replace(sha256=content.hexdigest()[:16])


def _entries(file: Path) -> Iterator[tuple[str, Any]]:
    """Keys and values of the JSON object in a file, one after the other."""
    text, decoder, place = files.read_text(file), json.JSONDecoder(), 0

    def next_is(wanted: str) -> str:
        nonlocal place
        place = _BLANKS.match(text, place).end()  # type: ignore[union-attr]
        found = text[place : place + 1]
        if not found or found not in wanted:
            raise json.JSONDecodeError(f"wanted one of {wanted}", text, place)
        return found

    def value() -> Any:
        nonlocal place
        found, place = decoder.raw_decode(text, place)
        return found

    with files.json_errors(file):
        next_is("{")
        place += 1
        is_empty = next_is('"}') == "}"
        while not is_empty:
            next_is('"')
            key = value()
            next_is(":")
            place = _BLANKS.match(text, place + 1).end()  # type: ignore[union-attr]
            yield key, value()
            is_empty = next_is(",}") == "}"
            place += 1


def _rows(file: Path, video: str, value: Any) -> tuple[np.ndarray, np.ndarray]:
    """Frames and boxes of a video.

    Returns:
      int32 `[rows]` and x0 y0 x1 y1, float32 `[rows 4]`.
    """
    try:
        rows = _something_else(value) if isinstance(value, list) else _plain(value)
        table = np.array(rows, np.float64).reshape(len(rows), 6)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(
            f'{file}: video {video!r}: is neither {{"FRAME": [[x0, y0, x1, y1], ...]}} nor a list '
            f"as Something-Else's ({type(error).__name__}: {error})"
        ) from error
    if not np.isfinite(table).all() or (len(table) and not 0 <= table[:, 0].min() < 2**31):
        raise UserError(f"{file}: video {video!r}: a frame or a box is no usable number")
    table = table[np.lexsort((-table[:, 5], table[:, 0]))]  # stable
    return table[:, 0].astype(np.int32), table[:, 1:5].astype(np.float32)


def _plain(value: dict[str, list[list[float]]]) -> list[tuple[float, ...]]:
    """Frame, box and score of each box."""
    rows: list[tuple[float, ...]] = []
    for frame, boxes in value.items():
        for box in boxes:
            x0, y0, x1, y1, *score = box
            rows.append((int(frame), x0, y0, x1, y1, *(score or (0.0,))))
    return rows


def _something_else(value: list[dict[str, Any]]) -> list[tuple[float, ...]]:
    """The same of Something-Else's annotations, which have no scores."""
    rows: list[tuple[float, ...]] = []
    for entry in value:
        frame = int(Path(entry["name"]).stem) - 1
        for label in entry["labels"]:
            box = label["box2d"]
            rows.append((frame, box["x1"], box["y1"], box["x2"], box["y2"], 0.0))
    return rows
