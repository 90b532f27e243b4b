"""CLEVRER: videos of objects that collide, with an annotation each.

The published tasks are questions. Here a video's labels are its collisions: for every pair of
kinds of objects, whether any two objects of these kinds collide. The kind of an object is its
material and shape, so that there are 6 kinds and 21 pairs.
"""

import itertools
import re
from pathlib import Path
from typing import Any

from rstg_jax.data.video.json_parts import json_parts
from rstg_jax.data.video.listing import Video, files_below
from rstg_jax.data.video.lists import Lists, warn_once
from rstg_jax.errors import UserError, reason

KINDS = tuple(
    f"{material} {shape}"
    for material in ("metal", "rubber")
    for shape in ("cube", "cylinder", "sphere")
)
COLLISIONS = tuple(f"{a} hits {b}" for a, b in itertools.combinations_with_replacement(KINDS, 2))
SPLITS = {"train": range(10_000), "test": range(10_000, 15_000)}  # the test split has no answers
_FOLDER = 1000  # videos of a folder


def clevrer(videos: Path, lists: Path, split: str) -> Lists:
    """No list: the numbers of the annotations, in folders of any depth, decide."""
    numbers = SPLITS[split]
    annotations: dict[int, Path] = {}
    for file in files_below(lists):
        match = re.fullmatch(r"annotation_(\d{5})\.json", file.name)
        if match and int(match[1]) in numbers:
            other = annotations.setdefault(int(match[1]), file)
            if other != file:
                raise UserError(f"{file} and {other} are both there: remove one of them")
    if not annotations:
        raise UserError(f"{lists}: has no annotation_NNNNN.json of the {split} split")
    if len(annotations) < len(numbers):
        counts = f"{len(annotations)} of {len(numbers)}"
        warn_once(f"{lists}: has {counts} annotations of the {split} split")
    where = {file.name: file for file in files_below(videos)}
    found = []
    rows = sorted(annotations.items())
    parts = json_parts(lists, [file for _, file in rows], _part, "clevrer")
    for (number, _), (file, content) in zip(rows, parts, strict=True):
        name = f"video_{number:05}.mp4"
        first = number - number % _FOLDER
        folder = f"video_{first:05}-{first + _FOLDER:05}"
        found.append(
            Video(where.get(name, videos / folder / name), name, collisions(file, content))
        )
    return Lists(list(COLLISIONS), found)


def _part(content: Any) -> Any:
    """Of an annotation, all but the places of the objects, which fill the file."""
    if not isinstance(content, dict):
        return None
    return {key: content[key] for key in ("object_property", "collision") if key in content}


def collisions(file: Path, content: Any) -> tuple[str, ...]:
    """The labels of an annotation, each once.

    Args:
      file: Where it is from.
      content: Its `object_property` and `collision`.

    Raises:
      UserError: It is none; the message names the file.
    """
    try:
        kinds = {
            each["object_id"]: f"{each['material']} {each['shape']}"
            for each in content["object_property"]
        }
        labels = set()
        for collision in content["collision"]:
            a, b = sorted(kinds[number] for number in collision["object_ids"])
            labels.add(f"{a} hits {b}")
        if unknown := labels - set(COLLISIONS):
            raise ValueError(f"no kinds of objects are {min(unknown)!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: is no annotation of CLEVRER: {reason(error)}") from error
    return tuple(sorted(labels))
