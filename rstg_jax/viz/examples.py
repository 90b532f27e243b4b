"""Test videos of a run with the predictions of its checkpoint."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from rstg_jax import data, storage
from rstg_jax.models import object_map
from rstg_jax.rstg.region_graph import Graph
from rstg_jax.training import losses, steps, trained_model
from rstg_jax.viz import draw_graph
from rstg_jax.viz.annotate_video import network_time
from rstg_jax.viz.panels import Example

MAX_FRAMES = 16  # shown of a video
BATCH = 4  # examples of a call of the network


class Outputs(NamedTuple):
    """Outputs of the network for a batch.

    Attributes:
      probabilities: of all classes, `[b classes]`.
      attention: `[k b t i j]`, or None.
      objects: see `rstg_jax.models.object_map.Objects`, if the nodes are objects, or None.
    """

    probabilities: np.ndarray
    attention: np.ndarray | None = None
    objects: object_map.Objects | None = None


# Video `[b t h w c]`, and boxes where the network reads them, as named arguments.
Apply = Callable[..., Outputs]


def load_examples(
    workdir: str | storage.Path, step: str, count: int, overrides: Mapping[str, str] | None = None
) -> tuple[list[Example], Graph | None]:
    """Predicts the first test examples with a checkpoint of the run.

    Returns:
      The examples, and the graph that their attention refers to (None without space stages).
    """
    loaded = trained_model.load(workdir, step, overrides, devices=jax.devices()[:1])
    config = loaded.data.single_view()

    @jax.jit
    def forward(clips):  # type: ignore[no-untyped-def]
        logits, out = loaded.module.apply(loaded.variables, **clips, train=False)
        probabilities = losses.probabilities(logits, loaded.experiment.loss.kind)
        return probabilities, out.get("attention"), out.get("objects")

    examples = predict_examples(
        config, config.open("test"), lambda **clips: Outputs(*jax.device_get(forward(clips))), count
    )
    if not examples or examples[0].attention is None:
        return examples, None
    return examples, loaded.experiment.model.rstg.graph()


def predict_examples(
    config: data.DataConfig,
    source: data.Source,
    apply: Apply,
    count: int,
) -> list[Example]:
    """Runs the first examples of a source through the network.

    Args:
      config: The data set.
      source: The split.
      apply: The network.
      count: Number of examples; fewer if the split is smaller. The last batch is padded, so that
        the network sees one shape only.
    """
    examples = []
    count = min(count, len(source))
    for start in range(0, count, BATCH):
        indices = np.minimum(np.arange(start, start + BATCH, dtype=np.int64), count - 1)
        batch = source.batch(indices)
        probabilities, attention, objects = apply(**steps.inputs(batch))
        places = None
        if objects is not None:
            places = draw_graph.object_places(np.asarray(objects.found), np.asarray(objects.places))
        frames = batch["video"].shape[1]
        shown = np.linspace(0, frames - 1, min(frames, MAX_FRAMES)).round().astype(int)
        for row in range(min(BATCH, count - start)):
            boxes = config.decisive_boxes(batch, row)
            examples.append(
                Example(
                    video=batch["video"][row][shown],
                    labels=data.labels_of(batch["label"][row]),
                    probabilities=np.asarray(probabilities[row]),
                    attention=None if attention is None else _at(shown, frames, attention[:, row]),
                    pair_boxes=None if boxes is None else boxes[shown],
                    objects=None if places is None else places[row][shown],
                )
            )
    return examples


def _at(shown: np.ndarray, frames: int, attention: np.ndarray) -> np.ndarray:
    """Attention in the frames `shown` of a clip, mean over rounds: `[k t i j]` -> `[shown i j]`."""
    mean = np.mean(attention, axis=0)
    return mean[[network_time(frame, frames, len(mean)) for frame in shown.tolist()]]
