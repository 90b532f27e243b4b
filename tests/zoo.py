"""Goldens `zoo_*.npz`: weights and videos from seeds, see tests/golden/README.md."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np

from tests.golden import load


def weights(golden: dict[str, np.ndarray], begin: tuple[str, ...] = ("",)) -> dict:
    """The arrays that the other network ran with, by its names and in its layout.

    Only those whose names begin with one of `begin` are drawn.

    Convolutions are He-normal and statistics of batch norm random: with PyTorch's own
    initialisation the signal dies inside these networks, and wrong padding passes.
    """
    keys = ("names", "shapes", "kinds", "factor", "offset")
    rows = zip(*(golden[f"weights/{key}"] for key in keys), strict=True)
    out, seed = {}, meta(golden)["weights_seed"]
    for number, (name, sizes, kind, factor, offset) in enumerate(rows):
        if not str(name).startswith(begin):
            continue
        shape = tuple(int(size) for size in sizes if size)
        random = np.random.RandomState(seed + number)
        if kind == "conv":
            value = random.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))
        elif kind == "dense":
            value = random.standard_normal(shape) * np.sqrt(1.0 / shape[1])
        elif kind in ("bias", "bn_bias", "bn_mean"):
            value = random.standard_normal(shape) * 0.1
        else:
            value = random.uniform(0.5, 1.5, shape)
        out[str(name)] = (value * factor + offset).astype(np.float32)
    return out


def video(golden: dict[str, np.ndarray]) -> np.ndarray:
    """The clip that the other network saw, RGB, uint8 `[1 t h w c]`."""
    seed, t, h, w = (meta(golden)["video"][key] for key in ("seed", "t", "h", "w"))
    random = np.random.RandomState(seed)
    coarse = random.randint(0, 256, (t, -(-h // 16), -(-w // 16), 3), dtype=np.int64)
    fine = random.randint(0, 256, (t, h, w, 3), dtype=np.int64)
    level = random.randint(64, 257, (t, 1, 1, 3), dtype=np.int64)
    coarse = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :h, :w]
    return ((3 * coarse + fine) // 4 * level // 256).astype(np.uint8)[None]


def means(backbone, variables, video, places):
    """Means over rows and columns of the maps at places, `[t c]`; nothing behind them is run.

    Args:
      backbone: its configuration.
      variables: of the whole model.
      video: `[1 t h w c]`.
      places: of the backbone.
    """
    kept = {}

    def keep(place, x):
        kept[place] = x.mean(axis=(2, 3))[0]
        return x

    after = {place: functools.partial(keep, place) for place in places}
    inside = {kind: tree["backbone"] for kind, tree in variables.items()}

    def run(inside, video):
        backbone.build(jnp.float32, None).apply(inside, video, after=after)
        return kept

    return jax.jit(run)(inside, video)


def meta(golden: dict[str, np.ndarray]) -> dict:
    return json.loads(str(golden["meta_json"]))


def deviation(actual, expected: np.ndarray) -> float:
    """Largest deviation relative to the largest expected value; infinite for another shape."""
    actual = np.asarray(actual)
    if actual.shape != expected.shape:
        return np.inf
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


__all__ = ["deviation", "load", "means", "meta", "video", "weights"]
