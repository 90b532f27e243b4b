"""Data sets that are made while they are needed, from random bits of each example."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from rstg_jax.data import random_stream
from rstg_jax.data.batches import ENDLESS, Batch


class OnlineVideos:
    """Videos made on the host; satisfies `Source`.

    Training has no end; testing has `config.num_test` examples.
    """

    def __init__(
        self,
        config: Any,
        split: str,
        name: str,
        label_names: tuple[str, ...],
        make: Callable[[Any, np.ndarray], Batch],
    ):
        """Makes nothing yet.

        Args:
          config: Of the data set, a dataclass with `num_test`, `seed` and `num_draws`.
          split: "train" or "test".
          name: Of the data set.
          label_names: In their order.
          make: Makes a batch of `config` and random bits `[b num_draws]`.
        """
        self.name = f"{name} {split} split, made online"
        self.label_names = label_names
        self.provenance = {"videos_from": "online", "split": split, **dataclasses.asdict(config)}
        self._config, self._split, self._make = config, split, make

    def __len__(self) -> int:
        return ENDLESS if self._split == "train" else self._config.num_test

    def batch(self, indices: np.ndarray) -> Batch:
        """Examples of some indices, int64 [b]."""
        config = self._config
        bits = random_stream.words(config.seed, self._split, indices, config.num_draws)
        return self._make(config, bits)
