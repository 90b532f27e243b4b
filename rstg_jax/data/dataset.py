"""The interface of a data set: everything that the rest of the library asks of its configuration.

A new data set is one file under `data/` with a frozen dataclass that derives from `DataConfig`, and
an import of it in `rstg_jax.data`. It must say the shape of a clip, the number of its classes and
how a split is opened; the other methods have defaults for videos that are seen once and whole.
Training checks the first example of each split against all that, see `check_source`.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from PIL import Image

from rstg_jax import config, limits
from rstg_jax.data.batches import Source, checked_batch, train_examples
from rstg_jax.data.video import decode
from rstg_jax.errors import UserError

SPLITS = ("train", "test")
_MODES = {1: "L", 3: "RGB"}  # Pillow's names by number of channels


class Placement(NamedTuple):
    """Position of a clip in its video.

    Attributes:
      nearest: For each frame of the video the nearest frame of the clip, int64 [frames].
      sampled: Whether it is that frame itself, bool [frames].
      frames: Number of frames of the clip.
      box: The part of the frame that the model sees, `y0 x0 y1 x1` in fractions of the frame.
    """

    nearest: np.ndarray
    sampled: np.ndarray
    frames: int
    box: tuple[float, float, float, float]

    @classmethod
    def whole(cls, frames: int) -> "Placement":
        """A clip that is all of its video."""
        return cls(np.arange(frames), np.ones(frames, bool), frames, (0.0, 0.0, 1.0, 1.0))


@dataclasses.dataclass(frozen=True)
class DataConfig(abc.ABC):
    """Configuration of a data set.

    Class attributes:
      fps: Pace at which to show its videos where a file does not say it, in frames per second.
      pictures: Whether frames of its videos can be shown.
      may_differ: Dotted names of fields and sections that may differ when a run is resumed: where
        the data lies, how it is loaded and tested.
    """

    fps: ClassVar[int] = 12
    pictures: ClassVar[bool] = True
    may_differ: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        config.check(self)

    @property
    @abc.abstractmethod
    def clip_shape(self) -> tuple[int, int, int, int]:
        """Shape of one training clip, `(t, h, w, c)`."""

    @property
    @abc.abstractmethod
    def num_classes(self) -> int:
        """Number of labels."""

    @property
    def multi_label(self) -> bool:
        """Whether a video has any number of labels, also none, instead of exactly one."""
        return False

    @abc.abstractmethod
    def open(self, split: str) -> Source:
        """Opens a split, "train" or "test".

        Raises:
          UserError: Data is missing or damaged; the message says what to do.
        """

    def check_lists(self) -> None:
        """Looks at the lists and the files of both splits without decoding any.

        Training calls it first, so that a mistake is found before `open`, which may take hours.

        Raises:
          UserError: As `open` does.
        """
        return

    @property
    def num_boxes(self) -> int:
        """Number of boxes of objects in every frame of a batch, for networks that read them.

        Where it is not 0, batches have `boxes` float32 `[b t num_boxes 4]`, `y0 x0 y1 x1` in
        fractions of the frame, or `[b v t num_boxes 4]` with several views; boxes without area
        stand for none.
        """
        return 0

    # --- testing ---

    @property
    def views(self) -> int:
        """Clips of one video in testing, whose logits are averaged."""
        return 1

    @property
    def test_clip_shape(self) -> tuple[int, int, int, int]:
        """Shape of one clip in testing, `(t, h, w, c)`."""
        return self.clip_shape

    @property
    def protocol(self) -> str:
        """Name of the evaluation protocol; empty for data without a choice of protocols."""
        return ""

    def with_protocol(self, protocol: str) -> Self:
        """The same data, tested by a protocol, see `rstg_jax.inference.protocols`.

        Raises:
          UserError: There is no such protocol for these data.
        """
        raise UserError(
            f"protocol={protocol}: videos of {type(self).__name__} are seen once and whole, they "
            "have no protocols"
        )

    def logit_places(self, label_names: Sequence[str]) -> np.ndarray | None:
        """For mirrored views see `rstg_jax.data.video.label_flip.logit_places`; None without any.

        Args:
          label_names: Name of each label.
        """
        del label_names
        return None

    def single_view(self) -> Self:
        """The same data, tested on one clip of each video."""
        return self

    def with_split(self, split: str | None) -> tuple[Self, str, str]:
        """Resolves a split by the name that the data set itself gives it.

        Args:
          split: Such as "train", "test" or "validation"; the split that training tests on if None.

        Returns:
          The configuration, the split as `open` calls it, and its own name.

        Raises:
          UserError: There is no such split.
        """
        split = split or "test"
        if split not in SPLITS:
            raise UserError(f"there is no {split} split in these data: choose train or test")
        return self, split, split

    def with_official_labels(self) -> Self:
        """The same data with labels in the order whose numbers the authors' server expects."""
        return self

    # --- videos from files ---

    def read_video(self, frames: decode.Frames) -> np.ndarray:
        """Turns an opened video into the model's input, as testing would.

        By default all frames in order, in grey (ITU-R 601) if clips have one channel, stretched to
        height and width of a clip with an antialiased bilinear filter.

        Returns:
          uint8 `[t h w c]`, or `[v t h w c]` with several views.

        Raises:
          UserError: A frame is damaged, or there are more than `limits.WHOLE_FRAMES` of them.
        """
        if len(frames) > limits.WHOLE_FRAMES:
            raise UserError(
                f"has {len(frames)} frames; a model of whole videos takes up to "
                f"{limits.WHOLE_FRAMES}: cut out a part, or get labels over time with "
                "python -m rstg_jax.predict --timeline=OUT"
            )
        _, height, width, channels = self.clip_shape
        fitted = []
        for image in frames.images(range(len(frames))):
            image = image.convert(_MODES[channels])
            if image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BILINEAR)
            fitted.append(np.asarray(image).reshape(height, width, channels))
        return np.stack(fitted)

    def placement(self, length: int, size: tuple[int, int]) -> Placement:
        """Position of the clip that `single_view().read_video` makes of a video.

        Args:
          length: Number of frames of the video.
          size: Width and height of its frames.
        """
        del size
        return Placement.whole(length)

    # --- reports and the auxiliary task ---

    def describe(
        self, label_names: Sequence[str], provenance: Mapping[str, Mapping[str, Any]]
    ) -> tuple[str, ...]:
        """Describes task and data to a reader of a report, one paragraph each.

        Args:
          label_names: Name of each label.
          provenance: `Source.provenance` of the splits "train" and "test", as the run recorded it.
        """
        del provenance
        return (
            f"Every video has one of {len(label_names)} labels, such as “{label_names[0]}” and "
            f"“{label_names[-1]}”. The network is shown the video and names the label.",
        )

    def decisive_boxes(self, batch: Mapping[str, np.ndarray], row: int) -> np.ndarray | None:
        """Boxes of the objects that decide the label of a video, where that is known.

        Args:
          batch: From `Source.batch`.
          row: Of the video in the batch.

        Returns:
          `y0 x0 y1 x1` in fractions of the frame, float `[t m 4]`, or None.
        """
        del batch, row
        return None

    @property
    def has_frame_labels(self) -> bool:
        """Whether batches have `frame_label` int32 `[b t]`: the label, had the video ended here."""
        return False

    @property
    def num_objects(self) -> int:
        """Number of objects in a video whose classes and places are in every batch; 0 for none.

        Batches then have `object_class` int32 `[b num_objects]`, no class twice in a video,
        `object_center` float32 `[b t num_objects 2]`, `y x` in fractions of the frame, and
        `object_in_pair` bool `[b num_objects]`, whether it moves together with another object.
        """
        return 0

    @property
    def num_object_classes(self) -> int:
        """Number of classes of objects."""
        return 0


def check_split(split: str) -> None:
    """Raises `UserError` unless a split is one that `DataConfig.open` knows."""
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}: one of {', '.join(SPLITS)}")


def check_source(config: DataConfig, source: Source, split: str) -> None:
    """Checks the label names and the first example of a source against its configuration.

    Args:
      config: Of the data.
      source: What it opened.
      split: "train" or "test".

    Raises:
      UserError: They do not fit; names the source and the field.
    """
    classes, views = config.num_classes, config.views if split == "test" else 1
    if len(source.label_names) != classes:
        raise UserError(
            f"{source.name}: has {len(source.label_names)} label_names, but "
            f"{type(config).__name__}.num_classes is {classes}"
        )
    first, shape, field = np.zeros(1, np.int64), config.clip_shape, "clip_shape"
    if split == "train":
        batch = train_examples(source, first, 0)
    else:
        batch, shape = checked_batch(source, first), config.test_clip_shape
        field = f"test_clip_shape (of {views} views)" if views > 1 else "test_clip_shape"
    label, video = batch["label"], batch["video"].shape[1:]
    axes = (classes,) if config.multi_label else ()
    if label.shape[1:] != axes or not np.issubdtype(label.dtype, np.integer):
        wanted = f"0 or 1 in integers [batch, {classes}]" if axes else "integers [batch]"
        raise UserError(
            f"{source.name}: label of one example is {label.dtype} {list(label.shape)}, but "
            f"multi_label={config.multi_label} in {type(config).__name__} needs {wanted}"
        )
    if video != (views,) * (views > 1) + shape:
        raise UserError(
            f"{source.name}: a video is {list(video)}, but {field} is {list(shape)} in "
            f"{type(config).__name__}"
        )
