"""The state of a training run, and how it is made.

It is initialized sharded (`jax.eval_shape` -> shardings -> `jit(init, out_shardings)`), so that it
never exists whole on one device.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jax.sharding import Mesh

from rstg_jax.training import losses, optim, sharding


class TrainState(flax.struct.PyTreeNode):
    """Everything that a training step reads and writes.

    Attributes:
      step: int32 [], number of updates made.
      params: weights.
      batch_stats: running statistics of batch normalisation; empty if there is none.
      opt_state: state of the optimiser.
      ema_params: moving average of the weights, or None.
      key: raw data of the run's random key, uint32; step s uses the key folded with s.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema_params: Any
    key: jax.Array

    @property
    def variables(self) -> dict[str, Any]:
        """Variables for evaluation: the average of the weights where there is one."""
        params = self.params if self.ema_params is None else self.ema_params
        return {"params": params} | ({"batch_stats": self.batch_stats} if self.batch_stats else {})


@dataclasses.dataclass(frozen=True)
class TrainSetup:
    """Constants of the steps.

    Attributes:
      module: the network.
      loss: its loss.
      tx: the optimiser.
      ema_decay: of the average of the weights, or None.
      skip_not_finite: whether an update that is not finite leaves all but `step` as it was.
      accumulate: parts of a batch that are computed one after the other.
      frozen: patterns of weights without gradient, see `optim.OptimizerConfig`.
    """

    module: nn.Module
    loss: losses.LossConfig
    tx: optax.GradientTransformation
    ema_decay: float | None
    skip_not_finite: bool = False
    accumulate: int = 1
    frozen: tuple[str, ...] = ()


def make_setup(
    module: nn.Module,
    loss: losses.LossConfig,
    config: optim.OptimizerConfig,
    total_steps: int,
    skip_not_finite: bool = False,
    accumulate: int = 1,
) -> TrainSetup:
    """Builds the `TrainSetup` of the configurations."""
    tx = optim.build(config, total_steps)
    return TrainSetup(
        module, loss, tx, config.ema_decay, skip_not_finite, accumulate, config.frozen
    )


def init_variables(
    module: nn.Module,
    video_shape: tuple[int, ...],
    seed: jax.Array,
    pretrained: Mapping[str, jax.Array] | None = None,
) -> dict[str, Any]:
    """Initializes weights and running statistics; arguments are those of `init_state`."""
    init_key = jax.random.split(jax.random.key(seed))[0]
    video = jnp.zeros((1, *video_shape), jnp.uint8)
    drawn = traverse_util.flatten_dict(module.init(init_key, video, train=False), sep="/")
    return traverse_util.unflatten_dict(drawn | dict(pretrained or {}), sep="/")


def init_state(
    setup: TrainSetup,
    video_shape: tuple[int, ...],
    seed: jax.Array,
    pretrained: Mapping[str, jax.Array] | None = None,
) -> TrainState:
    """Initializes a state; a pure function to jit or to evaluate for its shapes.

    Args:
      setup: see `TrainSetup`.
      video_shape: (t, h, w, c) of one clip.
      seed: int32 [].
      pretrained: given weights and running statistics, by path such as
        ``params/classifier/bias``, see `rstg_jax.training.init_from`.
    """
    variables = init_variables(setup.module, video_shape, seed, pretrained)
    params, run_key = variables["params"], jax.random.split(jax.random.key(seed))[1]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=setup.tx.init(params),
        ema_params=None if setup.ema_decay is None else jax.tree.map(jnp.copy, params),
        key=jax.random.key_data(run_key),
    )


def abstract_state(setup: TrainSetup, video_shape: tuple[int, ...], mesh: Mesh) -> Any:
    """Shapes, types and shardings of the state, without computing it."""
    return _abstract(functools.partial(init_state, setup, video_shape), mesh)


def abstract_variables(module: nn.Module, video_shape: tuple[int, ...], mesh: Mesh) -> Any:
    """The same of weights and running statistics alone."""
    return _abstract(functools.partial(init_variables, module, video_shape), mesh)


def _abstract(init: Callable[[jax.Array], Any], mesh: Mesh) -> Any:
    shapes = jax.eval_shape(init, jax.ShapeDtypeStruct((), jnp.int32))
    return jax.tree.map(
        lambda s, sh: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sh),
        shapes,
        sharding.state_shardings(shapes, mesh),
    )


def shardings_of(abstract: Any) -> Any:
    """The shardings of an abstract state, or of a part of it."""
    return jax.tree.map(lambda leaf: leaf.sharding, abstract)


def create_state(
    setup: TrainSetup,
    video_shape: tuple[int, ...],
    seed: int,
    mesh: Mesh,
    pretrained: Mapping[str, jax.Array] | None = None,
) -> TrainState:
    """Initializes the state directly in its sharded layout."""
    init = functools.partial(init_state, setup, video_shape)
    out = shardings_of(abstract_state(setup, video_shape, mesh))
    return jax.jit(init, out_shardings=out)(jnp.int32(seed), pretrained=pretrained)
