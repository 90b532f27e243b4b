"""Your own videos: a directory with one sub-directory per label, or a csv file of `path;label`."""

import concurrent.futures
import csv
import dataclasses
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import tqdm

from rstg_jax import files
from rstg_jax.data.dataset import check_split
from rstg_jax.data.video import decode
from rstg_jax.data.video.clip_dataset import ClipDataConfig
from rstg_jax.data.video.clip_source import Clip, ClipSource
from rstg_jax.errors import UserError
from rstg_jax.machine import num_cores

EXTENSIONS = (*decode.VIDEO_EXTENSIONS, ".gif")
_INDEX = ".rstg_jax_index.json"
_MAX_NAMED = 5  # broken videos that a message names

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class FolderConfig(ClipDataConfig):
    """Videos of your own.

    Attributes:
      path: Directory with one sub-directory per label (of any depth below it), or a csv file of
        `path;label` lines, paths relative to the file.
      test_path: The same for testing; if empty, `test_share` of `path` is set apart.
      test_share: Share of the videos that is for testing. Which ones depends on the names of the
        files alone, so that added videos never move others.
      extensions: Extensions of videos; other files are skipped.
      max_broken: Largest share of videos that cannot be opened; they are named and left out.
    """

    # Which files are used decides; their names are compared by `files_sha256`.
    may_differ: ClassVar[tuple[str, ...]] = (
        *("path", "test_path", "extensions", "max_broken"),
        *ClipDataConfig.may_differ,
    )

    path: str = ""
    test_path: str = ""
    test_share: float = 0.2
    extensions: tuple[str, ...] = EXTENSIONS
    max_broken: float = 0.001

    def __post_init__(self) -> None:
        if not self.test_path and not 0 < self.test_share < 1:
            raise UserError(
                f"test_share={self.test_share} must be between 0 and 1 without test_path"
            )
        if not 0 <= self.max_broken < 1:
            raise UserError(f"max_broken={self.max_broken} must be in [0, 1)")

    @property
    def num_classes(self) -> int:
        """Number of labels; lists the files but opens none."""
        return len(labels(self))

    def open(self, split: str) -> ClipSource:
        check_split(split)
        return open_folder(self, split)


class Video(NamedTuple):
    """A file, its name relative to the directory or csv file, and the name of its label."""

    path: Path
    name: str
    label: str


def open_folder(config: FolderConfig, split: str) -> ClipSource:
    """Opens a split ("train" or "test") of the videos that `config` names.

    Raises:
      UserError: If there are none, or too many of them cannot be opened.
    """
    label_names = labels(config)
    root = config.test_path if config.test_path and split == "test" else config.path
    chosen = listed(root, config.extensions)
    if not config.test_path:
        chosen = [v for v in chosen if (_fraction(v.name) < config.test_share) == (split == "test")]
    unknown = sorted({video.label for video in chosen} - set(label_names))
    if unknown:
        raise UserError(f"{config.test_path}: label {unknown[0]!r} is not in {config.path}")
    usable = without_broken(chosen, root, config.max_broken)
    if not usable:
        raise UserError(f"{root}: no video is left for the {split} split")
    numbers = {label: number for number, label in enumerate(label_names)}
    content = "\n".join(f"{v.name};{v.label}" for v in usable)
    return ClipSource(
        FolderClips([(video, numbers[video.label]) for video in usable]),
        config.clip,
        name=f"{split} split of {root}",
        label_names=label_names,
        provenance={
            "videos_from": "folder",
            "path": str(root),
            "split": split,
            "examples": len(usable),
            "broken": len(chosen) - len(usable),
            "files_sha256": hashlib.sha256(content.encode()).hexdigest()[:16],
        },
        workers=config.workers,
    )


def labels(config: FolderConfig) -> list[str]:
    """Names of the labels, in alphabetical order.

    Raises:
      UserError: If there are fewer than two.
    """
    names = sorted({video.label for video in listed(config.path, config.extensions)})
    if len(names) < 2:
        raise UserError(f"{config.path}: has one label only, {names[0]!r}; two are needed")
    return names


class FolderClips:
    """Videos on disk; satisfies `Clips`."""

    def __init__(self, videos: Sequence[tuple[Video, int]]):
        self._videos = videos

    def __len__(self) -> int:
        return len(self._videos)

    def load(self, indices: Sequence[int]) -> list[Clip]:
        chosen = [self._videos[index] for index in indices]
        return [Clip(video.name, str(video.path), label, video.path) for video, label in chosen]


def listed(path: str, extensions: Sequence[str]) -> list[Video]:
    """All videos of a directory or a csv file, in the order of their names.

    Raises:
      UserError: If there are none, or a line cannot be understood.
    """
    if not path:
        raise UserError("set path to a directory of videos or a csv file of path;label lines")
    root = Path(path).expanduser()
    if root.is_dir():
        videos = _of_directory(root, extensions)
        wanted = f"sub-directories, one per label, with files of {', '.join(extensions)}"
    elif root.is_file():
        videos, wanted = _of_csv(root), "lines of `path;label`"
    else:
        raise UserError(f"{path}: no such directory or csv file (path, test_path)")
    if not videos:
        raise UserError(f"{path}: holds no video; expected are {wanted}")
    return sorted(videos, key=lambda video: video.name)


def _of_directory(root: Path, extensions: Sequence[str]) -> list[Video]:
    endings = {extension.lower() for extension in extensions}
    videos = []
    for file in root.rglob("*"):
        parts = file.relative_to(root).parts
        hidden = any(part.startswith(".") for part in parts)
        if len(parts) > 1 and file.suffix.lower() in endings and not hidden and file.is_file():
            videos.append(Video(file, "/".join(parts), parts[0]))
    return videos


def _of_csv(file: Path) -> list[Video]:
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = [(number, row) for number, row in enumerate(csv.reader(lines, delimiter=";"), 1)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read as a csv file: {error}") from error
    videos: dict[str, Video] = {}
    for number, row in rows:
        if not row:
            continue
        if len(row) != 2 or not all(cell.strip() for cell in row):
            raise UserError(f"{file}: line {number} is not `path;label`: {';'.join(row)!r}")
        name, label = (cell.strip() for cell in row)
        if name in videos:
            raise UserError(f"{file}: line {number} names {name} a second time")
        videos[name] = Video(file.parent / Path(name).expanduser(), name, label)
    return list(videos.values())


def _fraction(name: str) -> float:
    """A number in [0, 1) that the name of a file alone decides."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2.0**64


def without_broken(videos: Sequence[Video], root: str, max_broken: float) -> list[Video]:
    """Opens each video that has changed since the last time, and leaves out the broken ones.

    To check a video, all of its frames are decoded, so that no damaged one stops training later;
    results are cached in a hidden file beside the videos, if that can be written.

    Raises:
      UserError: If more than the share `max_broken` is broken; names the first of them.
    """
    place = Path(root).expanduser()
    index = (place if place.is_dir() else place.parent) / _INDEX
    known = _read_index(index)
    stamps = {video: _stamp(video.path) for video in videos}
    new = [v for v in videos if known.get(str(v.path), ("", ""))[0] != stamps[v]]
    with (
        concurrent.futures.ThreadPoolExecutor(num_cores()) as pool,
        tqdm.tqdm(total=len(new), unit=" videos", desc=f"opening {root}", disable=None) as bar,
    ):
        for video, reason in zip(new, pool.map(_check, new), strict=True):
            known[str(video.path)] = (stamps[video], reason)
            bar.update()
    if new:
        _write_index(index, known)
    broken = [video for video in videos if known[str(video.path)][1]]
    if not broken:
        return list(videos)
    names = "; ".join(f"{video.name}: {known[str(video.path)][1]}" for video in broken[:_MAX_NAMED])
    more = f" and {len(broken) - _MAX_NAMED} more" if len(broken) > _MAX_NAMED else ""
    summary = f"{root}: {len(broken)} of {len(videos)} videos cannot be used ({names}{more})"
    if len(broken) > max_broken * len(videos):
        raise UserError(
            f"{summary}; remove or replace them, or raise max_broken={max_broken:g} above "
            f"{len(broken) / len(videos):.2g}"
        )
    _log.warning("%s and are left out", summary)
    return [video for video in videos if not known[str(video.path)][1]]


def _check(video: Video) -> str:
    """The reason why a video cannot be used; empty if it can."""
    try:
        decode.check(video.path)
    except UserError as error:
        return str(error)
    return ""


def _stamp(file: Path) -> str:
    """Size and time of a file, which change with its content."""
    try:
        status = file.stat()
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


def _read_index(file: Path) -> dict[str, tuple[str, str]]:
    """Path -> (stamp, problem); empty if there is no index or one of another version."""
    try:
        return {
            path: (stamp, wrong) for path, (stamp, wrong) in json.loads(file.read_text()).items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write_index(file: Path, known: dict[str, tuple[str, str]]) -> None:
    try:
        files.write_json(file, known)
    except UserError as error:
        _log.warning("%s; the videos are opened anew each time", error)
