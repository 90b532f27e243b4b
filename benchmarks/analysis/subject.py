"""A SyncMNIST model and the test videos that it is studied on."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np
from flax import linen as nn

from rstg_jax import config
from rstg_jax.data import SyncMNISTConfig
from rstg_jax.errors import UserError
from rstg_jax.inference import known_weights
from rstg_jax.models import classifier
from rstg_jax.rstg.region_graph import Graph, RegionGraph
from rstg_jax.training.weights import Weights

BATCH = 50
ARRAYS = ("video", "label", "coords", "object_class")
Arrays = Mapping[str, np.ndarray]


class Share(NamedTuple):
    """A mean over videos, and its standard error; fractions, printed in %."""

    mean: float
    error: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Share":
        """Of one value for each video, such as whether the answer is right, `[b]`."""
        return cls(float(values.mean()), float(values.std() / np.sqrt(len(values))))

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} ± {100 * self.error:.1f}"


@dataclasses.dataclass(frozen=True)
class Subject:
    """The model under study and its videos.

    Attributes:
      weights: of the model.
      module: the network.
      videos: arrays of the test videos: video, label, coords, and the classes of the digits as
        `object_class`, numbers in the spec's classes.
      none: the label of videos without a pair.
    """

    weights: Weights
    module: nn.Module
    videos: Arrays
    none: int

    @property
    def graph(self) -> Graph:
        """The nodes of its block."""
        return self.weights.experiment.model.rstg.graph()

    @property
    def studied(self) -> int:
        """How many nodes are studied, the first ones: the finest regions, or all objects."""
        return self.graph.scale_slices[0].stop

    @property
    def node(self) -> str:
        """What a node is."""
        return "region" if isinstance(self.graph, RegionGraph) else "object"

    @property
    def a_node(self) -> str:
        """The same with its article."""
        return f"{'a' if self.node == 'region' else 'an'} {self.node}"

    @property
    def middle(self) -> int:
        """Number of the middle frame."""
        return self.videos["video"].shape[1] // 2

    @property
    def paired(self) -> np.ndarray:
        """Numbers of the videos that have a pair."""
        return np.flatnonzero(self.videos["label"] != self.none)

    @functools.cached_property
    def log_likely(self) -> np.ndarray:
        """Log probabilities of every label for the videos as they are, `[b classes]`."""
        return self.log_probabilities(self.videos["video"])

    @property
    def found(self) -> np.ndarray:
        """The most likely label of every video as it is, `[b]`."""
        return self.log_likely.argmax(1)

    @property
    def right(self) -> np.ndarray:
        """Whether it is the true one, bool `[b]`."""
        return self.found == self.videos["label"]

    def log_probabilities(self, video: np.ndarray) -> np.ndarray:
        """Of every label, `[b classes]`."""
        apply, variables = _log_probabilities(self.module), self.weights.variables
        return np.concatenate([np.asarray(apply(variables, part)) for part in batches(video)])


def load(name: str, count: int, changes: Mapping[str, str] | None = None) -> Subject:
    """Loads a model by the name of its weights, and its first test videos.

    Args:
      name: of the weights.
      count: number of videos.
      changes: config keys and values.

    Raises:
      UserError: there are no such weights, they are of another task, or there are no videos.
    """
    if count < 1:
        raise UserError(f"--videos={count}: at least 1 video is needed")
    weights = known_weights.find(name)
    data = config.override(weights.experiment, changes or {}).data
    if not isinstance(data, SyncMNISTConfig) or "final" not in weights.experiment.model.rstg_at:
        raise UserError(f"--weights={name}: this is about SyncMNIST models with a block at the end")
    source = dataclasses.replace(data, test_source="online", num_test=count).open("test")
    parts = [source.batch(np.arange(i, min(i + BATCH, count))) for i in range(0, count, BATCH)]
    videos = {k: np.concatenate([p[k] for p in parts]) for k in ARRAYS}
    module = classifier.build(weights.experiment.model, len(weights.label_names))
    return Subject(weights, module, videos, weights.label_names.index("none"))


def batches(array: np.ndarray) -> Iterator[np.ndarray]:
    """Cuts an array into batches."""
    yield from (array[i : i + BATCH] for i in range(0, len(array), BATCH))


@functools.cache
def _log_probabilities(module: nn.Module) -> Callable[..., jax.Array]:
    return jax.jit(lambda variables, video: jax.nn.log_softmax(module.apply(variables, video)[0]))
