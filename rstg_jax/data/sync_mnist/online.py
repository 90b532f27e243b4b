"""SyncMNIST generated on the host."""

from typing import TYPE_CHECKING

import numpy as np

from rstg_jax.data import object_maps
from rstg_jax.data.batches import ENDLESS, Batch
from rstg_jax.data.sync_mnist import canvas, generator, renderer
from rstg_jax.data.sync_mnist import digits as digits_lib
from rstg_jax.data.sync_mnist.objects import object_arrays

if TYPE_CHECKING:
    from rstg_jax.data.sync_mnist.config import SyncMNISTConfig


class OnlineSyncMNIST:
    """SyncMNIST generated on the host; satisfies `Source`.

    Training has no end; testing has `config.num_test` examples.
    """

    def __init__(self, config: "SyncMNISTConfig", split: str):
        self.spec = config.spec
        self.name = f"SyncMNIST {split} split, made online"
        self.label_names = self.spec.label_names
        self._seed, self._split = config.seed, split
        self._length = ENDLESS if split == "train" else config.num_test
        self._digits = config.load_digits(split)
        self._maps, self._frame_size = config.frames == "maps", config.frame_size
        self._render = renderer.Renderer(self._digits.images, config.frame_size)
        self.provenance = provenance(config, split, self._digits)

    def __len__(self) -> int:
        return self._length

    def batch(self, indices: np.ndarray) -> Batch:
        """Examples int64 [b] -> {video, label} and `object_arrays`."""
        paths = generator.sample(
            self.spec, self._digits, indices, seed=self._seed, split=self._split
        )
        objects = object_arrays(np, self.spec, paths.digits, paths.coords, paths.labels)
        if self._maps:
            places = canvas.map_places(paths.coords, self._frame_size)
            kinds = (objects["object_class"], len(self.spec.classes))
            video = object_maps.draw(np, places, *kinds, self._frame_size)
        else:
            video = self._render(paths.images, paths.coords)
        return {"video": video, "label": paths.labels, **objects}


def provenance(
    config: "SyncMNISTConfig", split: str, digits: generator.Digits
) -> dict[str, str | int | float]:
    """The settings that determine generated videos."""
    ours: dict[str, str | int | float] = {}  # that earlier versions did not have
    if config.delay is not None:
        ours["delay"] = config.delay
    if config.frames != "pictures":
        ours["frames"] = config.frames
    if config.train_warps and split == "train":
        ours["train_warps"] = config.train_warps
    return ours | {
        "videos_from": "online",
        "split": split,
        "digits_from": config.digits,
        "digits": len(digits),
        "digits_sha256": digits_lib.fingerprint(digits),
        "seed": config.seed,
        "examples": "endless" if split == "train" else config.num_test,
        "num_digits": config.num_digits,
        "classes": ",".join(map(str, config.classes)),
        "num_frames": config.num_frames,
        "frame_size": config.frame_size,
        "none_probability": config.none_probability,
    }
