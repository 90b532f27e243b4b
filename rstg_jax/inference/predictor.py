"""Prediction of single videos: files, directories, and examples of a split."""

import contextlib
import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rstg_jax import data
from rstg_jax.data.video import decode, listing
from rstg_jax.errors import UserError, first_line
from rstg_jax.inference import protocols, video_input
from rstg_jax.inference.evaluation import as_records, open_named
from rstg_jax.training import steps, trained_model

RANGE = re.compile(r"(train|validation|test):(\d+)(?:-(\d+))?")
# Kinds of files that are taken for videos in directories.
VIDEO_KINDS = (*decode.VIDEO_EXTENSIONS, ".gif", ".webp", ".apng", ".npy")


@dataclasses.dataclass(frozen=True)
class VideoRequest:
    """A video to predict.

    Attributes:
      name: path of a file, or split and index.
      split: the split's own name; empty for a file.
      index: of the example in the split.
      error: why there is no such video, or None.
    """

    name: str
    split: str = ""
    index: int = 0
    error: UserError | None = None


class Predictor:
    """Predicts the labels of videos with a trained model. Compiles once per shape of videos."""

    def __init__(self, model: trained_model.TrainedModel, top: int = 5):
        protocols.check_fits(model)
        self._variables = model.variables
        self._names, kind = model.label_names, model.experiment.loss.kind
        average, places = model.experiment.model.view_average, model.logit_places

        def ranking(variables: Mapping[str, Any], clip: steps.Batch) -> dict[str, jax.Array]:
            clips = jax.tree.map(lambda x: x[None], clip)
            logits = steps.classify(model.module, variables, clips, average, places=places)
            return jax.tree.map(lambda x: x[0], steps.ranking(logits, top, kind))

        self._ranking = jax.jit(ranking)

    def __call__(self, video: np.ndarray, boxes: np.ndarray | None = None) -> list[dict[str, Any]]:
        """Predicts one video, uint8 [t h w c], or [v t h w c] of several views.

        Args:
          video: the video.
          boxes: [t n 4] or [v t n 4], for a network that reads them.

        Returns:
          The most likely labels, best first, as ``{"label": name, "probability": p}``. Where a
          video may have several, each has a probability of its own.
        """
        return as_records(*self.best(video, boxes), self._names)

    def best(
        self, video: np.ndarray, boxes: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and probabilities of the most likely labels of a video, best first, `[k]`."""
        clip = {"video": video} if boxes is None else {"video": video, "boxes": boxes}
        best = jax.device_get(self._ranking(self._variables, clip))
        return best["label"], best["probability"]


class Videos:
    """Finds videos and reads them as testing would.

    Args:
      model: the model to read for.
    """

    def __init__(self, model: trained_model.TrainedModel):
        self._data, self._label_names = model.data, model.label_names
        self._open = functools.cache(lambda split: open_named(model.data, split)[0])

    def find(self, names: Sequence[str]) -> list[VideoRequest]:
        """Resolves names: files, directories, and ranges of a split such as ``test:0-9``."""
        found: list[VideoRequest] = []
        for name in names:
            match = RANGE.fullmatch(name)
            if match is None:
                found += map(VideoRequest, expand(name))
                continue
            split, first, last = match[1], int(match[2]), int(match[3] or match[2])
            try:
                if last < first:
                    raise UserError(f"{name}: the last example comes before the first")
                source = self._open(split)
                if last >= len(source):
                    examples = f"the examples 0 to {len(source) - 1}"
                    raise UserError(f"{name}: {source.name} has {examples}")
            except UserError as error:
                found.append(VideoRequest(name, error=error))
                continue
            found += [
                VideoRequest(f"{split}:{index}", split, index) for index in range(first, last + 1)
            ]
        return found

    def read(self, request: VideoRequest) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Reads a video.

        Returns:
          What the network reads, ``video`` uint8 `[t h w c]` or `[v t h w c]` and perhaps
          ``boxes``; and ``id`` and ``truth`` where they are known: the label, or a list of them
          where a video may have several.

        Raises:
          UserError: it cannot be read; the message names it.
        """
        if request.error is not None:
            raise request.error
        if not request.split:
            return {"video": video_input.read(request.name, self._data)}, {}
        batch = self._open(request.split).batch(np.array([request.index], np.int64))
        known: dict[str, Any] = {"id": str(batch["id"][0])} if "id" in batch else {}
        label = batch["label"][0]
        truth = [self._label_names[number] for number in data.labels_of(label)]
        if label.ndim:
            known["truth"] = truth
        elif truth:
            known["truth"] = truth[0]
        return {key: array[0] for key, array in steps.inputs(batch).items()}, known

    def original(self, request: VideoRequest) -> decode.Encoded | np.ndarray:
        """The encoded video, or its frames uint8 `[t h w c]` if it was never encoded."""
        if not request.split:
            return Path(request.name)
        if not self._data.pictures:
            raise UserError(f"{request.name} is no video that could be drawn, but a feature map")
        source = self._open(request.split)
        if isinstance(source, data.EncodedSource):
            return source.encoded(request.index)
        return source.batch(np.array([request.index], np.int64))["video"][0]

    def encoded(self, request: VideoRequest) -> decode.Encoded:
        """The encoded video.

        Raises:
          UserError: there is none.
        """
        if request.error is not None:
            raise request.error
        video = self.original(request)
        if isinstance(video, np.ndarray):
            raise UserError(f"{request.name}: is no encoded video; give a file")
        return video


def expand(name: str) -> list[str]:
    """The videos of a directory, in the order of their names; any other name as it is.

    Directories below it that cannot be read, and links to nothing, are among them: to predict them
    will say so.
    """
    # `Path.is_dir` and `is_file` raise where a directory may not be read.
    if not os.path.isdir(name):
        return [name]
    unreadable: list[Path] = []
    paths = list(listing.files_below(Path(name), unreadable.append))
    videos = {path for path in paths if path.suffix.lower() in VIDEO_KINDS}
    folders = {path.parent for path in paths if path.suffix.lower() in decode.STILLS}
    folders -= {path.parent for path in videos}
    return [str(path) for path in sorted({*videos, *folders, *unreadable})] or [name]


def predict(
    model: trained_model.TrainedModel,
    videos: Videos,
    requests: Sequence[VideoRequest],
    top: int = 5,
    draw: Callable[[int], Path] | None = None,
) -> Iterator[dict[str, Any]]:
    """Predicts videos, one record each.

    Args:
      model: the model.
      videos: reads them.
      requests: from `Videos.find`.
      top: number of labels in a record.
      draw: draws the video of a number in `requests`; returns the path of the drawing.

    Yields:
      ``{"video": name, "frames": t, "predictions": [...]}``, with ``"id"`` and ``"truth"`` where
      they are known and ``"drawn"`` if it was drawn. ``{"video": name, "error": message}`` if the
      video cannot be read; ``"error"`` besides the rest if it cannot be drawn.
    """
    predictor = Predictor(model, top)
    for number, request in enumerate(requests):
        with recording(request) as record:
            clip, known = videos.read(request)
            record |= {"frames": clip["video"].shape[-4], "predictions": predictor(**clip)} | known
            if draw is not None:
                record["drawn"] = str(draw(number))
        yield record


@contextlib.contextmanager
def recording(request: VideoRequest) -> Iterator[dict[str, Any]]:
    """Yields the record of a video, which an error of the block puts as ``"error"`` into it."""
    record: dict[str, Any] = {"video": request.name}
    try:
        yield record
    except (UserError, jax.errors.JaxRuntimeError) as error:  # such as a lack of memory
        # A user's error is one line, unless the name of a file has several.
        text = str(error) if isinstance(error, UserError) else first_line(error)
        text = text if request.name in text else f"{request.name}: {text}"
        record["error"] = " ".join(text.splitlines())
