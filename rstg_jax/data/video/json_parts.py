"""The parts of large JSON files that are needed, cached beside these."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tqdm

from rstg_jax import files
from rstg_jax.data.video.listing import stamp
from rstg_jax.errors import UserError

_log = logging.getLogger(__name__)


def json_parts(
    root: Path, paths: Sequence[Path], part: Callable[[Any], Any], name: str
) -> Iterator[tuple[Path, Any]]:
    """JSON files with the part of each that is needed, in the order of `paths`.

    The annotations of a data set can be gigabytes, of which labels are a small part. It is cached
    in a hidden file of `root`, if that can be written. A file is read again when its size or time
    has changed, and all of them when the cache is damaged.

    Args:
      root: Directory of all files.
      paths: The files.
      part: Takes the content of a file and returns the part, which must be JSON, too. What a file
        may contain is to be checked afterwards, as a cache is a file like others.
      name: Of the cache. A `part` that returns something else needs another name.

    Raises:
      UserError: A file cannot be read or is no JSON.
    """
    cache = root / f".rstg_jax_{name}.json"
    known = _read(cache)
    stamps = {path: stamp(path) for path in paths}
    keys = {path: str(path.relative_to(root)) for path in paths}
    new = [path for path in paths if known.get(keys[path], [""])[0] != stamps[path]]
    for path in tqdm.tqdm(new, unit=" files", desc=f"reading {root}", disable=None):
        known[keys[path]] = [stamps[path], part(files.read_json(path))]
    if new:
        _write(cache, known)
    for path in paths:
        yield path, known[keys[path]][1]


def _read(cache: Path) -> dict[str, list[Any]]:
    """Name of a file -> stamp and part; empty if there is no cache, or one that is not whole."""
    try:
        content = files.read_json(cache)
        known = content["files"]
        if content["sha256"] != _sha256(known):
            return {}
        return {str(key): [str(stamp), part] for key, (stamp, part) in known.items()}
    except (UserError, AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return {}


def _write(cache: Path, known: dict[str, list[Any]]) -> None:
    content = {"sha256": _sha256(known), "files": known}
    try:
        files.write_text(cache, json.dumps(content))
    except UserError as error:
        _log.warning("%s; the annotations are read anew each time", error)


def _sha256(known: Any) -> str:
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()
