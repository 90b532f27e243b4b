"""The source of videos on disk, whoever has listed them."""

import hashlib
import os
from collections.abc import Mapping, Sequence

import numpy as np

from rstg_jax.data.video import broken_videos, label_flip
from rstg_jax.data.video.clip_dataset import ClipDataConfig
from rstg_jax.data.video.clip_source import Clip, ClipSource
from rstg_jax.data.video.listing import Video
from rstg_jax.data.video.lists import Lists, warn_once
from rstg_jax.errors import named


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
    content = "\n".join(f"{v.key};{','.join(v.labels)}" for v in usable)

    def label(video: Video) -> label_flip.Label:
        if not config.multi_label:
            return numbers[video.label]
        return np.isin(label_names, video.labels).astype(np.int32)

    return ClipSource(
        ListedClips([(video, label(video)) for video in usable]),
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


def check_splits(
    config: ClipDataConfig, lists: Mapping[str, Lists], test_root: str, max_broken: float
) -> None:
    """Checks two splits, of which no video is opened.

    Args:
      config: Of the data.
      lists: Of the splits "train" and "test". Missing files of the first are found when it is
        opened.
      test_root: Where the videos for testing are.
      max_broken: Largest share of these that may be missing.

    Raises:
      UserError: Labels, boxes or files cannot be used.
    """
    label_flip.mirrored_labels(lists["train"].label_names)
    config.boxes.read()
    broken_videos.check_there(lists["test"].videos, test_root, max_broken)
    # No error: published lists may be so, and it may be meant.
    trained = {_place(video) for video in lists["train"].videos}
    if both := [video.name for video in lists["test"].videos if _place(video) in trained]:
        warn_once(
            f"{len(both)} of {len(lists['test'].videos)} videos to test on are also trained on, so "
            f"that scores say little about new videos: {named(both, ', ')}"
        )


def _place(video: Video) -> tuple[str, range | None]:
    return os.path.abspath(video.path), video.frames


class ListedClips:
    """Videos on disk; satisfies `Clips`."""

    def __init__(self, videos: Sequence[tuple[Video, label_flip.Label]]):
        self._videos = videos

    def __len__(self) -> int:
        return len(self._videos)

    def load(self, indices: Sequence[int]) -> list[Clip]:
        chosen = [self._videos[index] for index in indices]
        return [Clip(video.name, str(video.path), label, video.encoded) for video, label in chosen]
