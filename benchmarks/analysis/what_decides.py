"""How much each of the finest regions matters in the middle frame, and does it hold the pair?

A region matters as much as the true label loses in log odds when the region does not work, see
`CHANGES`. Attention is compared with it: does it show what decides? Of a block on objects all of
them are asked, of which two are the pair.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from benchmarks.analysis.subject import Share, Subject, batches
from rstg_jax.data.sync_mnist import canvas
from rstg_jax.inference import interventions
from rstg_jax.rstg.region_graph import RegionGraph
from rstg_jax.training import region_loss

TOP = 2  # nodes that are looked at, as there are two digits in a pair
SILENCE, ATTENTION = "sees nothing", "attention"
# What happens to a node in a frame.
CHANGES: Mapping[str, Callable[[jax.Array, int], interventions.Interceptor]] = {
    SILENCE: interventions.silence,
    "loses its memory": interventions.forget,
    "sends no messages": lambda node, frame: interventions.cut(None, node, frame),
}


def node_boxes(subject: Subject, frame: int) -> np.ndarray:
    """Where the nodes are in a frame of each video, as `y0 x0 y1 x1` in fractions of it, `[b r 4]`.

    Objects that are not in the video are nan.
    """
    coords, classes = subject.videos["coords"][:, frame], subject.videos["object_class"]
    boxes = np.full((len(coords), subject.studied, 4), np.nan)
    if isinstance(subject.graph, RegionGraph):
        boxes[:] = subject.graph.boxes[: subject.studied]
    else:
        boxes[np.arange(len(classes))[:, None], classes] = canvas.sprite_boxes(coords, 1)
    return boxes


def holders(subject: Subject, frame: int) -> np.ndarray:
    """Whether each region holds the centre of a digit of the pair, or an object is one, `[b r]`."""
    if not isinstance(subject.graph, RegionGraph):
        pair = subject.videos["object_class"][:, :2]
        return (pair[:, :, None] == np.arange(subject.studied)).any(1)
    boxes = subject.graph.boxes[: subject.studied]  # [r 4], fractions of the frame
    corners = subject.videos["coords"][:, frame, :2]
    centres = (corners + canvas.SPRITE / 2) / canvas.CANVAS  # [b 2 2]
    held = region_loss.inside(jnp.asarray(boxes), jnp.asarray(centres[:, None]))  # [b 1 r 2]
    return np.asarray(held.any(-1)[:, 0])


def effects(subject: Subject, variables: Any, change: str, frame: int) -> np.ndarray:
    """What the true label loses in log odds if a node is changed in a frame, `[b r]`.

    Log odds are the log of p / (1 - p). Log probabilities would put nodes in the same order, but
    a sure network has all of its changes close to 0.

    Args:
      subject: the network and its videos.
      variables: of the network.
      change: key of `CHANGES`.
      frame: number of the frame.
    """
    losses = _losses(subject.module, subject.studied, change, frame)
    pairs = zip(batches(subject.videos["video"]), batches(subject.videos["label"]), strict=True)
    return np.concatenate([np.asarray(losses(variables, *pair)) for pair in pairs])


@functools.cache  # compiled once for trained and random weights
def _losses(module: nn.Module, nodes: int, change: str, frame: int) -> Callable[..., jax.Array]:
    @jax.jit
    def losses(variables: Any, video: jax.Array, label: jax.Array) -> jax.Array:
        def of_label() -> jax.Array:
            logits, _ = module.apply(variables, video)
            true = jax.nn.one_hot(label, logits.shape[1], dtype=bool)
            return jax.nn.logsumexp(logits, 1, where=true) - jax.nn.logsumexp(
                logits, 1, where=~true
            )

        def changed(node: jax.Array) -> jax.Array:
            with nn.intercept_methods(CHANGES[change](node, frame)):
                return of_label()

        return of_label()[:, None] - jax.lax.map(changed, jnp.arange(nodes)).T

    return losses


def attention(subject: Subject, variables: Any, frame: int) -> np.ndarray:
    """Share of all attention in a frame that is paid to each of the studied nodes, `[b r]`."""

    @jax.jit
    def paid(variables: Any, video: jax.Array) -> jax.Array:
        _, out = subject.module.apply(variables, video)
        received = out["attention"][:, :, frame].sum((0, 2))  # of [k b i j]: [b j]
        return (received / received.sum(1, keepdims=True))[:, : subject.studied]

    parts = batches(subject.videos["video"])
    return np.concatenate([np.asarray(paid(variables, part)) for part in parts])


def measures(subject: Subject, variables: Any, frame: int) -> dict[str, np.ndarray]:
    """How much each of the studied nodes matters, `[b r]`, by every change and by attention."""
    values = {change: effects(subject, variables, change, frame) for change in CHANGES}
    return values | {ATTENTION: attention(subject, variables, frame)}


def random_variables(subject: Subject) -> Any:
    """Random weights for the network."""
    shape = subject.videos["video"].shape[1:]
    return jax.jit(subject.module.init)(jax.random.key(0), np.zeros((1, *shape), np.uint8))


def largest(values: np.ndarray) -> np.ndarray:
    """The `TOP` nodes with the largest values of each video, bool `[b r]`."""
    best = np.argsort(-values, axis=1, kind="stable")[:, :TOP]
    chosen = np.zeros(values.shape, bool)
    np.put_along_axis(chosen, best, True, axis=1)
    return chosen


def score(values: np.ndarray, wanted: np.ndarray) -> Share:
    """The share of the `TOP` nodes with the largest values that are wanted, bool `[b r]`."""
    return Share.of((largest(values) & wanted).sum(1) / TOP)
