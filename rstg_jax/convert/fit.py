"""Maps named arrays of any project to the variables of our models, and nothing left over."""

import abc
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from rstg_jax.errors import UserError, named
from rstg_jax.models import classifier
from rstg_jax.models.config import ModelConfig

Arrays = Mapping[str, np.ndarray]
Path = tuple[str, ...]
# What PyTorch calls the variables of a layer.
LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# Of variables that the other network does not have.
ABSENT = {"scale": np.ones, "bias": np.zeros, "kernel": np.zeros}


class Names(abc.ABC):
    """A project's names of our variables."""

    @abc.abstractmethod
    def of(self, backbone: Any, path: Path) -> str | None:
        """The name of a variable, or None if the project has none: a gain of 1, else zeros.

        Args:
          backbone: configuration of the backbone.
          path: of the variable, without the collection.
        """

    def prepare(self, state: Arrays) -> Arrays:
        """The arrays of a file in the form in which the names refer to them."""
        return state


def fit(
    state: Arrays,
    config: ModelConfig,
    names: Names,
    *,
    frames: int,
    side: int = 224,
    turn: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> dict[str, Any]:
    """Maps arrays to the variables of `classifier.build(config, classes)`.

    Args:
      state: arrays by name. 2D kernels are inflated: repeated along the frames under the kernel and
        divided by their number.
      config: the model; its number of classes is that of the arrays.
      names: of the arrays.
      frames: of the clips.
      side: of their frames.
      turn: brings the axes of an array with at least two of them into our order.

    Returns:
      `{"params": ..., "batch_stats": ...}`, NumPy float32.

    Raises:
      UserError: names the arrays that are missing, unused or misshapen, the first of them.
    """
    left = dict(names.prepare(state))
    bias = names.of(config.backbone, ("classifier", "bias"))
    classes = left[bias].size if bias in left else 1
    problems: list[str] = []
    flat = {}
    for path, shape in _shapes(config, classes, (frames, side, side)).items():
        name = names.of(config.backbone, path[1:])
        if name is None:
            flat[path] = ABSENT[path[-1]](shape, np.float32)
            continue
        value = left.pop(name, None)
        if value is None:
            problems.append(f"missing {name}")
            continue
        array = _shaped(np.asarray(value, np.float32), shape, turn)
        if array.shape != shape:
            problems.append(f"misshapen {name} {list(np.shape(value))}, ours is {list(shape)}")
        flat[path] = array
    problems += [f"unused {name}" for name in left]
    if problems:
        listed = named(sorted(problems))
        raise UserError(f"the tensors do not fit the architecture: {listed}")
    return traverse_util.unflatten_dict(flat)


def _shapes(
    config: ModelConfig, classes: int, clip: tuple[int, int, int]
) -> dict[Path, tuple[int, ...]]:
    """The shapes of our variables by path."""
    module = classifier.build(config, classes)
    video = jax.ShapeDtypeStruct((1, *clip, 3), jnp.uint8)
    tree = jax.eval_shape(module.init, jax.random.key(0), video)
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(tree).items()}


def _shaped(
    value: np.ndarray, shape: tuple[int, ...], turn: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Our axes; one more for 2D kernels, none of length 1 in front that we do not have."""
    value = turn(value) if value.ndim > 1 else value
    if value.ndim == 4 and len(shape) == 5:
        value = np.repeat(value[None], shape[0], axis=0) / shape[0]
    extra = max(value.ndim - len(shape), 0)
    return value.reshape(value.shape[extra:]) if set(value.shape[:extra]) == {1} else value
