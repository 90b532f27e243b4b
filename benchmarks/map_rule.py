"""The answers of a rule made by hand on the maps that a SyncMNIST model's graph reads.

The rule is a measure of the maps: where the graph is worse, it could do better with the same CNN.
For each class of digits it takes the likeliest pixel of every frame, and compares the steps of any
two classes: the steps of a pair are alike but for the errors of the places, those of others are
not. Steps count as much as the digits were seen before and after them.
"""

import numpy as np

from rstg_jax.data.sync_mnist import canvas, generator

ALIKE, APART = 2.0, 8.0  # canvas pixels: spread of the difference of steps, of a pair and of others
WRONG = 0.1  # share of steps of a pair that are misread, and then differ like those of others
PRESENCE = 2.0  # weight of a digit's mean log probability of being there


def places(object_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reads a map.

    Args:
      object_map: of `rstg_jax.models.object_map.ObjectMap`, `[b t h w classes 3]`.

    Returns:
      The place `y x` of each class in its likeliest pixel, in canvas pixels, `[b t classes 2]`, and
      the probability of its presence there, `[b t classes]`.
    """
    b, t, h, w, classes, _ = object_map.shape
    pixels = object_map.reshape(b, t, h * w, classes, 3).astype(np.float64)
    best = pixels[..., 0].argmax(2)[:, :, None]  # [b t 1 classes]
    logit, *place = (np.take_along_axis(pixels[..., k], best, axis=2)[:, :, 0] for k in range(3))
    corner = np.stack(np.divmod(best[:, :, 0], w), axis=-1)
    inside = (np.clip(np.stack(place, axis=-1), -1, 1) + 1) / 2
    return (corner + inside) / (h, w) * canvas.CANVAS, 1 / (1 + np.exp(-logit))


def choose(place: np.ndarray, presence: np.ndarray) -> np.ndarray:
    """The pair of classes that fits best, of each video; it never says that there is none.

    Args:
      place: `[b t classes 2]` in canvas pixels.
      presence: probability of each class `[b t classes]`.

    Returns:
      Labels, int `[b]`.
    """
    steps = np.diff(place, axis=1)
    seen = np.minimum(presence[:, 1:], presence[:, :-1])
    there = PRESENCE * np.log(np.maximum(presence.mean(1), 1e-4))
    i, j = np.tril_indices(place.shape[2], -1)
    squares = np.square(steps[:, :, i] - steps[:, :, j]).sum(-1)  # [b t-1 pairs]

    def density(spread: float) -> np.ndarray:
        return np.exp(-squares / (2 * spread**2)) / spread**2

    alike = (1 - WRONG) * density(ALIKE) + WRONG * density(APART)
    evidence = seen[:, :, i] * seen[:, :, j] * (np.log(alike) - np.log(density(APART)))
    best = (evidence.sum(1) + there[:, i] + there[:, j]).argmax(1)
    return generator.pair_label(i[best], j[best])
