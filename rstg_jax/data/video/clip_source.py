"""Batches of clips from a split of encoded videos."""

import concurrent.futures
import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from rstg_jax.data.batches import Batch
from rstg_jax.data.video import clip_transforms, decode, label_flip
from rstg_jax.data.video.boxes import Boxes, BoxesError
from rstg_jax.errors import UserError
from rstg_jax.machine import num_cores

_MAX_WORKERS = 16
_log = logging.getLogger(__name__)

Example = dict[str, np.ndarray]  # video and, if there are any, boxes


class Clip(NamedTuple):
    """An encoded video: id, location, label (-1 if unknown; or 0/1 int32 [classes]), content."""

    id: str
    where: str
    label: label_flip.Label
    encoded: decode.Encoded


class Clips(Protocol):
    """A split of encoded videos."""

    def __len__(self) -> int:
        """Number of videos."""

    def load(self, indices: Sequence[int]) -> list[Clip]:
        """The videos of some indices."""


class ClipSource:
    """Batches of clips, decoded in threads; satisfies `AugmentedSource` and `EncodedSource`.

    The batch does not depend on the number of threads. A video that cannot be decoded raises an
    error with its name; in training, another one can take its place. None is skipped silently.

    Args:
      split: The encoded videos.
      config: Frames, crops and augmentation.
      name: A name for messages.
      label_names: Name of each label.
      provenance: To be recorded.
      workers: Threads that decode in each process; if None, as many as there are cores for it, but
        no more than 16.
      processes: Worker processes, see `rstg_jax.data.workers`; 0 decodes in this one.
      labelled: Whether labels are known.
      broken: "stop" or "replace", see `ClipDataConfig`.
      boxes: Of the objects, to be in every batch; None for none.

    Attributes:
      replaced: Ids of the videos in whose place others were given.
    """

    def __init__(
        self,
        split: Clips,
        config: clip_transforms.ClipConfig,
        *,
        name: str,
        label_names: Sequence[str],
        provenance: dict[str, str | int | float],
        workers: int | None = None,
        processes: int = 0,
        labelled: bool = True,
        broken: str = "stop",
        boxes: Boxes | None = None,
    ):
        self.name, self.label_names, self.provenance = name, tuple(label_names), provenance
        self._boxes = boxes
        if boxes is not None:
            self.provenance = {**provenance, "boxes_sha256": boxes.sha256}
        self.labelled, self.num_draws = labelled, config.num_draws
        self._split, self._config, self._broken = split, config, broken
        self.replaced: set[str] = set()
        self._mirrored = label_flip.mirrored_labels(self.label_names)
        self.processes = processes
        cores = max(1, num_cores() // max(1, processes))
        self._threads = min(cores, _MAX_WORKERS) if workers is None else workers

    @functools.cached_property
    def _map(self) -> Callable[..., Iterable[Any]]:
        """Decodes in threads, which start on demand and end with the source."""
        if self._threads < 2:
            return map
        return concurrent.futures.ThreadPoolExecutor(self._threads, "clips").map

    def __getstate__(self) -> dict[str, Any]:
        """Everything but threads, which every process starts for itself."""
        return {key: value for key, value in self.__dict__.items() if key != "_map"}

    def __len__(self) -> int:
        return len(self._split)

    def encoded(self, index: int) -> decode.Encoded:
        """The video of an example as it is stored."""
        return self._split.load([index])[0].encoded

    def batch(self, indices: np.ndarray) -> Batch:
        """Examples as in testing.

        Args:
          indices: int64 [b].

        Returns:
          video uint8 `[b t h w c]`, or `[b v t h w c]` with several views; label int32 `[b]`, -1
          where it is unknown, or 0/1 `[b classes]` of sets of labels; id, text `[b]`; boxes, if
          there are any, see `DataConfig.num_boxes`.
        """
        loaded = self._split.load(indices.tolist())

        def make(clip: Clip) -> Example:
            return self._decoded(
                clip, lambda frames: clip_transforms.testing_views(frames, self._config)
            )

        return _batch(loaded, list(self._map(make, loaded)), [clip.label for clip in loaded])

    def augmented(self, indices: np.ndarray, bits: np.ndarray) -> Batch:
        """Examples as in training, one view each: a function of `indices` and random bits.

        Args:
          indices: int64 [b].
          bits: uint64 [b self.num_draws].
        """
        loaded = self._split.load(indices.tolist())
        draws = (bits >> np.uint64(11)) * 2.0**-53  # [b num_draws] in [0, 1)
        made = list(self._map(self._augmented_or_other, indices.tolist(), loaded, draws))
        clips, examples, labels = zip(*made, strict=True)
        return _batch(clips, examples, labels)

    def _augmented_or_other(
        self, index: int, clip: Clip, draw: np.ndarray
    ) -> tuple[Clip, Example, label_flip.Label]:
        """A training example and its label: of a clip, or else of the next one that is whole."""
        for other in range(index + 1, index + 1 + len(self)):
            try:
                return self._augmented(clip, draw)
            except UserError as error:
                if self._broken == "stop" or isinstance(error, BoxesError):
                    raise
                if clip.id not in self.replaced:
                    self.replaced.add(clip.id)
                    count = len(self.replaced)
                    _log.warning("%s; another takes its place (%d so far)", error, count)
            clip = self._split.load([other % len(self)])[0]
        raise UserError(f"{self.name}: no clip can be decoded")

    def _augmented(self, clip: Clip, draw: np.ndarray) -> tuple[Clip, Example, label_flip.Label]:
        mirrored = label_flip.mirrored(clip.label, self._mirrored)
        mirror = self._config.mirrors(draw) and mirrored is not None

        def make(frames: decode.Frames) -> clip_transforms.Cut:
            return clip_transforms.training_clip(frames, self._config, draw, mirror=mirror)

        label = mirrored if mirror and mirrored is not None else clip.label
        return clip, self._decoded(clip, make), label

    def _decoded(self, clip: Clip, make: Callable[[decode.Frames], clip_transforms.Cut]) -> Example:
        try:
            with decode.opened(clip.encoded) as frames:
                pixels, places = make(frames)
        except UserError as error:
            raise UserError(
                f"{self.name}: clip {clip.id} ({clip.where}): {error}; repair it or take it out"
            ) from error
        if self._boxes is None:
            return {"video": pixels}
        boxes = np.stack([self._boxes.beside(clip.id, place) for place in places])
        return {"video": pixels, "boxes": boxes if pixels.ndim == 5 else boxes[0]}


def _batch(
    loaded: Sequence[Clip], examples: Sequence[Example], labels: Sequence[label_flip.Label]
) -> Batch:
    return {
        **{key: np.stack([example[key] for example in examples]) for key in examples[0]},
        "label": np.asarray(labels, np.int32),
        "id": np.array([clip.id for clip in loaded]),
    }
