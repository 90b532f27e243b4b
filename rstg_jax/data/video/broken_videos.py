"""Finds videos on disk that cannot be read, before a model is trained on the others."""

import concurrent.futures
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import tqdm

from rstg_jax import files
from rstg_jax.data.video import decode
from rstg_jax.data.video.listing import MISSING, Video, stamp
from rstg_jax.errors import UserError, named
from rstg_jax.machine import num_cores

_INDEX = ".rstg_jax_index.json"
_SAVE_SECONDS = 30  # between two times that the index is written
_MAX_NAMED = 5  # broken videos that a message names

_log = logging.getLogger(__name__)


def without_broken(videos: Sequence[Video], root: str, max_broken: float) -> list[Video]:
    """Opens each video that has changed since it was last read, and leaves out the broken ones.

    Missing files are found before the first video is opened. To check a video, all of its frames
    are decoded, so that no damaged one stops training later. Which ones could be read is cached in
    a hidden file beside the videos, if that can be written, also when this is interrupted; the
    others are tried again each time.

    Raises:
      UserError: If more than the share `max_broken` is broken; names the first of them.
    """
    place = Path(root).expanduser()
    stamps = _stamps(videos)
    reasons = _missing(videos, stamps, root, max_broken)  # name -> why it cannot be used
    index = (place if place.is_dir() else place.parent) / _INDEX
    known = _read_index(index)
    there = [video for video in videos if video.name not in reasons]
    new = [video for video in there if known.get(video.key) != stamps[video.key]]
    found, due = 0, time.monotonic() + _SAVE_SECONDS
    with (
        concurrent.futures.ThreadPoolExecutor(num_cores()) as pool,
        tqdm.tqdm(total=len(new), unit=" videos", desc=f"opening {root}", disable=None) as bar,
    ):
        try:
            for video, reason in zip(new, pool.map(_check, new), strict=True):
                if reason:
                    reasons[video.name] = reason
                else:
                    known[video.key] = stamps[video.key]
                    found += 1
                bar.update()
                if time.monotonic() > due:
                    written = _write_index(index, known)
                    due = time.monotonic() + _SAVE_SECONDS if written else float("inf")
        finally:
            pool.shutdown(cancel_futures=True)  # or an interrupt would wait for all videos
            if found and due < float("inf"):
                _write_index(index, known)
    if reasons:
        _log.warning("%s and are left out", _refuse_many(reasons, len(videos), root, max_broken))
    return [video for video in there if video.name not in reasons]


def check_there(videos: Sequence[Video], root: str, max_broken: float) -> None:
    """Raises `UserError` as `without_broken` does if too many files are missing; opens none."""
    _missing(videos, _stamps(videos), root, max_broken)


def _stamps(videos: Sequence[Video]) -> dict[str, str]:
    return {video.key: stamp(video.path) for video in videos}


def _missing(
    videos: Sequence[Video], stamps: Mapping[str, str], root: str, max_broken: float
) -> dict[str, str]:
    """Names of the videos whose files are missing, with reasons, unless these are too many."""
    gone = [video for video in videos if stamps[video.key] == MISSING]
    reasons = {video.name: _check(video) or "was missing" for video in gone}
    if reasons:
        _refuse_many(reasons, len(videos), root, max_broken)
    return reasons


def _refuse_many(reasons: Mapping[str, str], listed: int, root: str, max_broken: float) -> str:
    """Describes the videos that cannot be used; raises `UserError` if they are too many."""
    names = named([f"{name}: {why}" for name, why in reasons.items()], most=_MAX_NAMED)
    summary = f"{root}: {len(reasons)} of {listed} videos cannot be used ({names})"
    if len(reasons) == listed:
        raise UserError(f"{summary}; none is left. Paths in a csv file are relative to it")
    if len(reasons) > max_broken * listed:
        raise UserError(
            f"{summary}; remove or replace them, or raise max_broken={max_broken:g} above "
            f"{len(reasons) / listed:.2g}"
        )
    return summary


def _check(video: Video) -> str:
    """The reason why a video cannot be used; empty if it can."""
    try:
        decode.check(video.encoded)
    except UserError as error:
        return str(error)
    return ""


def _read_index(file: Path) -> dict[str, str]:
    """Key -> stamp of videos that could be read; empty without an index of this version."""
    try:
        content = files.read_json(file).items()
    except (UserError, AttributeError):
        return {}
    return {name: seen for name, seen in content if isinstance(seen, str)}


def _write_index(file: Path, known: dict[str, str]) -> bool:
    """Whether it could be written; a line says if not."""
    try:
        files.write_json(file, known)
    except UserError as error:
        _log.warning("%s; the videos are opened anew each time", error)
        return False
    return True
