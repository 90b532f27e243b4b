"""The source of videos on disk, whoever has listed them."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from rstg_jax.data.video import label_flip
from rstg_jax.data.video.clip_dataset import ClipDataConfig
from rstg_jax.data.video.clip_source import Clip, ClipSource
from rstg_jax.data.video.listing import Video


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


class ListedClips:
    """Videos on disk; satisfies `Clips`."""

    def __init__(self, videos: Sequence[tuple[Video, label_flip.Label]]):
        self._videos = videos

    def __len__(self) -> int:
        return len(self._videos)

    def load(self, indices: Sequence[int]) -> list[Clip]:
        chosen = [self._videos[index] for index in indices]
        return [Clip(video.name, str(video.path), label, video.encoded) for video, label in chosen]
