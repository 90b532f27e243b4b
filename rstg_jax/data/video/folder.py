"""Your own videos: a directory with one sub-directory per label, or a csv file of `path;label`."""

import collections
import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from typing import ClassVar

from rstg_jax.data.dataset import SPLITS, check_split
from rstg_jax.data.video import decode
from rstg_jax.data.video.broken_videos import without_broken
from rstg_jax.data.video.clip_dataset import ClipDataConfig
from rstg_jax.data.video.clip_source import ClipSource
from rstg_jax.data.video.listed_source import check_splits, source_of
from rstg_jax.data.video.listing import Video, listed, not_taken, without_video
from rstg_jax.data.video.lists import Lists, warn_once
from rstg_jax.errors import UserError, named

EXTENSIONS = (*decode.VIDEO_EXTENSIONS, ".gif")

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
      extensions: Extensions of videos; a line says how many other files there are.
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
        super().__post_init__()
        if not self.test_path and not 0 < self.test_share < 1:
            raise UserError(
                f"test_share={self.test_share} must be between 0 and 1 without test_path"
            )
        if wrong := [ending for ending in self.extensions if not ending.startswith(".")]:
            raise UserError(f"extensions: {wrong[0]!r} does not begin with a dot, as .mp4 does")
        if not 0 <= self.max_broken < 1:
            raise UserError(f"max_broken={self.max_broken} must be in [0, 1)")

    @property
    def num_classes(self) -> int:
        """Number of labels; lists the files but opens none."""
        return len(labels(self))

    def open(self, split: str) -> ClipSource:
        check_split(split)
        return open_folder(self, split)

    def check_lists(self) -> None:
        lists = {}
        for split in SPLITS:
            names, videos = _listed(self, split)
            lists[split] = Lists(names, _of_split(self, split, videos))
        check_splits(self, lists, _root(self, "test"), self.max_broken)


def open_folder(config: FolderConfig, split: str) -> ClipSource:
    """Opens a split ("train" or "test") of the videos that `config` names.

    Raises:
      UserError: If there are none, or too many of them cannot be opened.
    """
    root, here = _root(config, split), _listed(config, split)
    if empty := without_video(root, here.videos):
        _log.warning("%s: no video in %s", root, ", ".join(empty))
    # Once, though both splits may be of the same directory.
    if (split == "train" or config.test_path) and (others := not_taken(root, here.videos)):
        _log.warning(
            "%s: files that are not used: %s. Videos have one of data.extensions and lie in a "
            "directory per label; directories of images must be listed in a csv file",
            *(root, named(others, ", ")),
        )
    chosen = _of_split(config, split, here.videos)
    usable = without_broken(chosen, root, config.max_broken)
    if absent := sorted(set(here.label_names) - {video.label for video in usable}):
        _log.warning("%s: the %s split has no video of %s", root, split, ", ".join(absent))
    provenance = {"videos_from": "folder"}
    return source_of(config, root, split, here.label_names, len(chosen), usable, provenance)


def labels(config: FolderConfig) -> list[str]:
    """Names of the labels, in alphabetical order.

    Raises:
      UserError: If there are fewer than two.
    """
    return _listed(config, "train").label_names


def _root(config: FolderConfig, split: str) -> str:
    return config.test_path if config.test_path and split == "test" else config.path


def _listed(config: FolderConfig, split: str) -> Lists:
    """The labels, and all videos of the directory or csv file in which a split lies."""
    videos = listed(config.path, config.extensions)
    names = sorted({video.label for video in videos})
    if len(names) < 2:
        raise UserError(f"{config.path}: has one label only, {names[0]!r}; two are needed")
    alike = collections.defaultdict(list)
    for name in names:
        alike[name.casefold()].append(name)
    if pairs := [" and ".join(map(repr, some)) for some in alike.values() if len(some) > 1]:
        warn_once(
            f"{config.path}: labels that differ in capitals only are different ones: "
            f"{named(pairs, ', ')}"
        )
    if _root(config, split) == config.path:
        return Lists(names, videos)
    videos = listed(config.test_path, config.extensions)
    if unknown := sorted({video.label for video in videos} - set(names)):
        raise UserError(f"{config.test_path}: label {unknown[0]!r} is not in {config.path}")
    return Lists(names, videos)


def _of_split(config: FolderConfig, split: str, videos: list[Video]) -> list[Video]:
    """Those of the videos that `_listed` has found that are of the split itself."""
    if config.test_path:
        return videos
    testing = _for_testing(videos, config.test_share)
    chosen = [video for video in videos if (video in testing) == (split == "test")]
    if not chosen:
        raise UserError(
            f"{config.path}: no video is left for the {split} split; change test_share, or name "
            "others with test_path"
        )
    return chosen


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
