"""Your own videos: a directory with one sub-directory per label, or a csv file of `path;label`."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import tqdm

from rstg_jax import files
from rstg_jax.data.dataset import check_split
from rstg_jax.data.video import decode, label_flip
from rstg_jax.data.video.clip_dataset import ClipDataConfig
from rstg_jax.data.video.clip_source import Clip, ClipSource
from rstg_jax.data.video.listing import Video, listed, stamp, without_video
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
        files alone, so that added videos never move others; except that one video of every label
        is always for training.
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


def open_folder(config: FolderConfig, split: str) -> ClipSource:
    """Opens a split ("train" or "test") of the videos that `config` names.

    Raises:
      UserError: If there are none, or too many of them cannot be opened.
    """
    label_names = labels(config)
    root = config.test_path if config.test_path and split == "test" else config.path
    chosen = listed(root, config.extensions)
    if empty := without_video(root, chosen):
        _log.warning("%s: no video in %s", root, ", ".join(empty))
    if not config.test_path:
        testing = _for_testing(chosen, config.test_share)
        chosen = [video for video in chosen if (video in testing) == (split == "test")]
    unknown = sorted({video.label for video in chosen} - set(label_names))
    if unknown:
        raise UserError(f"{config.test_path}: label {unknown[0]!r} is not in {config.path}")
    usable = without_broken(chosen, root, config.max_broken)
    if not usable:
        hint = "" if config.test_path else "; change test_share, or name others with test_path"
        raise UserError(f"{root}: no video is left for the {split} split{hint}")
    if absent := sorted(set(label_names) - {video.label for video in usable}):
        _log.warning("%s: the %s split has no video of %s", root, split, ", ".join(absent))
    provenance = {"videos_from": "folder"}
    return source_of(config, root, split, label_names, len(chosen), usable, provenance)


def source_of(
    config: ClipDataConfig,
    root: str,
    split: str,
    label_names: Sequence[str],
    listed: int,
    usable: Sequence[Video],
    provenance: Mapping[str, str | int | float],
) -> ClipSource:
    """The source of some videos on disk.

    Args:
      config: Clips, workers and what to do with broken videos.
      root: Where the videos are.
      split: "train" or "test".
      label_names: In their order.
      listed: Number of videos before the broken ones were left out.
      usable: The videos.
      provenance: To be recorded, besides path, split, numbers and a checksum of names and labels.
    """
    numbers = {label: number for number, label in enumerate(label_names)}
    content = "\n".join(f"{_key(v)};{','.join(v.labels)}" for v in usable)

    def label(video: Video) -> label_flip.Label:
        if not config.multi_label:
            return numbers[video.label]
        return np.isin(label_names, video.labels).astype(np.int32)

    return ClipSource(
        FolderClips([(video, label(video)) for video in usable]),
        config.clip,
        name=f"{split} split of {root}",
        label_names=label_names,
        provenance={
            **provenance,
            "path": str(root),
            "split": split,
            "examples": len(usable),
            "broken": listed - len(usable),
            "files_sha256": hashlib.sha256(content.encode()).hexdigest()[:16],
        },
        workers=config.workers,
        processes=config.processes,
        broken=config.broken,
        boxes=config.boxes.read(),
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

    def __init__(self, videos: Sequence[tuple[Video, label_flip.Label]]):
        self._videos = videos

    def __len__(self) -> int:
        return len(self._videos)

    def load(self, indices: Sequence[int]) -> list[Clip]:
        chosen = [self._videos[index] for index in indices]
        return [Clip(video.name, str(video.path), label, video.encoded) for video, label in chosen]


def _for_testing(videos: Sequence[Video], share: float) -> set[Video]:
    """The videos that are set apart for testing: about a share of them, but no label's last one."""
    testing = {video for video in videos if _fraction(video.name) < share}
    of_label = collections.defaultdict(list)
    for video in videos:
        of_label[video.label].append(video)
    for label, some in of_label.items():
        if testing.issuperset(some):
            kept = max(some, key=lambda video: _fraction(video.name))
            testing.remove(kept)
            _log.info(
                "%s: no name falls into the training split; %s is put there", label, kept.name
            )
    return testing


def _fraction(name: str) -> float:
    """A number in [0, 1) that the name of a file alone decides."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2.0**64


def without_broken(videos: Sequence[Video], root: str, max_broken: float) -> list[Video]:
    """Opens each video that has changed since it was last read, and leaves out the broken ones.

    To check a video, all of its frames are decoded, so that no damaged one stops training later.
    Which ones could be read is cached in a hidden file beside the videos, if that can be written;
    the others are tried again each time.

    Raises:
      UserError: If more than the share `max_broken` is broken; names the first of them.
    """
    place = Path(root).expanduser()
    index = (place if place.is_dir() else place.parent) / _INDEX
    known = _read_index(index)
    stamps = {_key(video): stamp(video.path) for video in videos}
    new = [video for video in videos if known.get(_key(video)) != stamps[_key(video)]]
    reasons: dict[str, str] = {}  # why videos cannot be used
    with (
        concurrent.futures.ThreadPoolExecutor(num_cores()) as pool,
        tqdm.tqdm(total=len(new), unit=" videos", desc=f"opening {root}", disable=None) as bar,
    ):
        for video, reason in zip(new, pool.map(_check, new), strict=True):
            if reason:
                reasons[video.name] = reason
            else:
                known[_key(video)] = stamps[_key(video)]
            bar.update()
    if len(new) > len(reasons):
        _write_index(index, known)
    if not reasons:
        return list(videos)
    names = "; ".join(f"{name}: {why}" for name, why in list(reasons.items())[:_MAX_NAMED])
    more = f" and {len(reasons) - _MAX_NAMED} more" if len(reasons) > _MAX_NAMED else ""
    summary = f"{root}: {len(reasons)} of {len(videos)} videos cannot be used ({names}{more})"
    if len(reasons) > max_broken * len(videos):
        raise UserError(
            f"{summary}; remove or replace them, or raise max_broken={max_broken:g} above "
            f"{len(reasons) / len(videos):.2g}"
        )
    _log.warning("%s and are left out", summary)
    return [video for video in videos if video.name not in reasons]


def _check(video: Video) -> str:
    """The reason why a video cannot be used; empty if it can."""
    try:
        decode.check(video.encoded)
    except UserError as error:
        return str(error)
    return ""


def _key(video: Video) -> str:
    """Its name with its segment: one that can be read says nothing about the rest of the file."""
    shown = video.frames
    return video.name if shown is None else f"{video.name} {shown.start}:{shown.stop}"


def _read_index(file: Path) -> dict[str, str]:
    """Key -> stamp of videos that could be read; empty without an index of this version."""
    try:
        content = files.read_json(file).items()
    except (UserError, AttributeError):
        return {}
    return {name: seen for name, seen in content if isinstance(seen, str)}


def _write_index(file: Path, known: dict[str, str]) -> None:
    try:
        files.write_json(file, known)
    except UserError as error:
        _log.warning("%s; the videos are opened anew each time", error)
