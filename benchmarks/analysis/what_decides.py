"""How much each of the finest regions matters in the middle frame, and does it hold the pair?

A region matters as much as the true label loses in log odds when the region does not work, see
`CHANGES`. Attention is compared with it: does it show what decides?
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from benchmarks.analysis.subject import Share, Subject, batches
from rstg_jax.data.sync_mnist import generator
from rstg_jax.inference import interventions
from rstg_jax.training import region_loss

TOP = 2  # regions that are looked at, as there are two digits in a pair
SILENCE, ATTENTION = "sees nothing", "attention"
# What happens to a region in a frame.
CHANGES: Mapping[str, Callable[[jax.Array, int], interventions.Interceptor]] = {
    SILENCE: interventions.silence,
    "loses its memory": interventions.forget,
    "sends no messages": lambda region, frame: interventions.cut(None, region, frame),
}


def holders(subject: Subject, frame: int) -> np.ndarray:
    """Whether each of the finest regions holds the centre of a digit of the pair, bool `[b r]`."""
    boxes = subject.graph.boxes[subject.graph.scale_slices[0]]  # [r 4], fractions of the frame
    corners = subject.videos["coords"][:, frame, :2]
    centres = (corners + generator.SPRITE / 2) / generator.CANVAS  # [b 2 2]
    held = region_loss.inside(jnp.asarray(boxes), jnp.asarray(centres[:, None]))  # [b 1 r 2]
    return np.asarray(held.any(-1)[:, 0])


def effects(subject: Subject, variables: Any, change: str, frame: int) -> np.ndarray:
    """What the true label loses in log odds if a region is changed in a frame, `[b r]`.

    Log odds are the log of p / (1 - p). Log probabilities would put regions in the same order, but
    a sure network has all of its changes close to 0.

    Args:
      subject: the network and its videos.
      variables: of the network.
      change: key of `CHANGES`.
      frame: number of the frame.
    """
    losses = _losses(subject.module, subject.graph.scales[0] ** 2, change, frame)
    pairs = zip(batches(subject.videos["video"]), batches(subject.videos["label"]), strict=True)
    return np.concatenate([np.asarray(losses(variables, *pair)) for pair in pairs])


@functools.cache  # compiled once for trained and random weights
def _losses(module: nn.Module, regions: int, change: str, frame: int) -> Callable[..., jax.Array]:
    @jax.jit
    def losses(variables: Any, video: jax.Array, label: jax.Array) -> jax.Array:
        def of_label() -> jax.Array:
            logits, _ = module.apply(variables, video)
            true = jax.nn.one_hot(label, logits.shape[1], dtype=bool)
            return jax.nn.logsumexp(logits, 1, where=true) - jax.nn.logsumexp(
                logits, 1, where=~true
            )

        def changed(region: jax.Array) -> jax.Array:
            with nn.intercept_methods(CHANGES[change](region, frame)):
                return of_label()

        return of_label()[:, None] - jax.lax.map(changed, jnp.arange(regions)).T

    return losses


def attention(subject: Subject, variables: Any, frame: int) -> np.ndarray:
    """Share of all attention in a frame that is paid to each of the finest regions, `[b r]`."""
    regions = subject.graph.scales[0] ** 2

    @jax.jit
    def paid(variables: Any, video: jax.Array) -> jax.Array:
        _, out = subject.module.apply(variables, video)
        received = out["attention"][:, :, frame].sum((0, 2))  # of [k b i j]: [b j]
        return (received / received.sum(1, keepdims=True))[:, :regions]

    parts = batches(subject.videos["video"])
    return np.concatenate([np.asarray(paid(variables, part)) for part in parts])


def measures(subject: Subject, variables: Any, frame: int) -> dict[str, np.ndarray]:
    """How much each of the finest regions matters, `[b r]`, by every change and by attention."""
    values = {change: effects(subject, variables, change, frame) for change in CHANGES}
    return values | {ATTENTION: attention(subject, variables, frame)}


def random_variables(subject: Subject) -> Any:
    """Random weights for the network."""
    shape = subject.videos["video"].shape[1:]
    return jax.jit(subject.module.init)(jax.random.key(0), np.zeros((1, *shape), np.uint8))


def largest(values: np.ndarray) -> np.ndarray:
    """The `TOP` regions with the largest values of each video, bool `[b r]`."""
    best = np.argsort(-values, axis=1, kind="stable")[:, :TOP]
    chosen = np.zeros(values.shape, bool)
    np.put_along_axis(chosen, best, True, axis=1)
    return chosen


def score(values: np.ndarray, wanted: np.ndarray) -> Share:
    """The share of the `TOP` regions with the largest values that are wanted, bool `[b r]`."""
    return Share.of((largest(values) & wanted).sum(1) / TOP)
