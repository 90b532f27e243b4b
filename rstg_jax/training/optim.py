"""Optimisers: the official rule, AdamW and Muon, schedules, clipping, and the moving average."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from rstg_jax import config
from rstg_jax.errors import UserError
from rstg_jax.training import patterns


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How gradients change the weights.

    Attributes:
      name: "nesterov" is the official rule (TensorFlow 1's MomentumOptimizer with use_nesterov:
        ``m = momentum m + g;  w -= rate (g + momentum m)``); "adamw" is AdamW; "muon" makes the
        update of every kernel orthogonal and leaves the rest to AdamW (arXiv 2502.16982).
      learning_rate: the rate after warm-up.
      schedule: "constant", or "cosine", which would reach `end_factor` times the rate at the step
        after the last one: no update is wasted on a rate of 0.
      warmup_steps: steps of linear growth from zero.
      end_factor: see `schedule`.
      momentum: of "nesterov".
      b1, b2, eps: of "adamw", also within "muon".
      weight_decay: decoupled, times the rate; matrices and kernels only, no bias and no norm.
      clip_norm: largest global norm of the gradient, or None.
      ema_decay: decay of a moving average of the weights that evaluation then uses, or None.
        Early on the decay is (1 + step) / (10 + step), so that the start is forgotten.
      frozen: patterns of weights that stay as they are, such as ``params/backbone``, see
        `rstg_jax.training.patterns`. They have neither gradient nor state of the optimiser. Running
        statistics of batch norm are no weights: they go on following the batches.
      rates: patterns of weights, each with a factor of the rate, such as
        ``((params/classifier, 10.0),)``. Of several that match a weight the first one counts.
      reference_batch: number of videos in an update for which `learning_rate` is meant, or None.
        With other batches the rate is `learning_rate * batch_size / reference_batch`.
    """

    name: Literal["nesterov", "adamw", "muon"] = "adamw"
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup_steps: int = 0
    end_factor: float = 0.0
    momentum: float = 0.9
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None
    ema_decay: float | None = None
    frozen: tuple[str, ...] = ()
    rates: tuple[tuple[str, float], ...] = ()
    reference_batch: int | None = None

    def __post_init__(self) -> None:
        config.check(self, "optim.")
        if self.learning_rate < 0 or self.warmup_steps < 0 or self.weight_decay < 0:
            raise UserError("learning_rate, warmup_steps and weight_decay cannot be negative")
        for key in ("momentum", "b1", "b2"):
            if not 0 <= getattr(self, key) < 1:
                raise UserError(f"{key}={getattr(self, key)} must be at least 0 and below 1")
        if self.end_factor < 0 or self.eps < 0:
            raise UserError("end_factor and eps cannot be negative")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise UserError(f"clip_norm={self.clip_norm} must be positive (or none)")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise UserError(f"ema_decay={self.ema_decay} must lie between 0 and 1 (or be none)")
        if self.name == "nesterov" and self.weight_decay:
            raise UserError("the rule nesterov has no weight decay; use adamw")
        if self.reference_batch is not None and self.reference_batch < 1:
            raise UserError(f"reference_batch={self.reference_batch} must be at least 1")
        patterns.check((*self.frozen, *(pattern for pattern, _ in self.rates)))
        if any(factor < 0 for _, factor in self.rates):
            raise UserError("factors of rates cannot be negative")

    def for_batch(self, batch_size: int) -> "OptimizerConfig":
        """The same rule with the rate for updates of `batch_size` videos.

        The one place where the rate follows the batch.
        """
        if self.reference_batch is None:
            return self
        rate = self.learning_rate * batch_size / self.reference_batch
        return dataclasses.replace(self, learning_rate=rate, reference_batch=None)


def learning_rate(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """The rate as a function of the number of updates already made."""
    warmup = min(config.warmup_steps, total_steps)
    if config.schedule == "cosine":
        rest = optax.cosine_decay_schedule(
            config.learning_rate, max(total_steps - warmup, 1), config.end_factor
        )
    else:
        rest = optax.constant_schedule(config.learning_rate)
    if not warmup:
        return rest
    rise = optax.linear_schedule(config.learning_rate / warmup, config.learning_rate, warmup - 1)
    return optax.join_schedules([rise, rest], [warmup])


def build(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """Returns the gradient transformation: clip, rule, schedule, factors, for what is not frozen.

    A pattern of the configuration that matches no weight raises `UserError` when the state of the
    transformation is initialised.
    """
    rate = learning_rate(config, total_steps)
    if config.name == "nesterov":
        rule = optax.sgd(rate, momentum=config.momentum, nesterov=True)
    elif config.name == "muon":
        rule = optax.contrib.muon(
            rate,
            adam_b1=config.b1,
            adam_b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            weight_decay_mask=decayed,
            muon_weight_dimension_numbers=as_matrices,
        )
    else:
        rule = optax.adamw(
            rate, config.b1, config.b2, config.eps, weight_decay=config.weight_decay, mask=decayed
        )
    if config.clip_norm is not None:
        rule = optax.chain(optax.clip_by_global_norm(config.clip_norm), rule)
    if config.frozen:
        kinds = {True: "frozen", False: "trained"}
        rule = optax.partition(
            {"frozen": optax.set_to_zero(), "trained": rule},
            lambda params: jax.tree.map(kinds.get, frozen(config.frozen, params)),
        )
    if config.rates:
        rule = optax.chain(rule, scaling(config.rates))
    return rule


def scaling(rates: Sequence[tuple[str, float]]) -> optax.GradientTransformation:
    """`scaled` as a transformation, which looks for the patterns when its state is initialised."""
    scale = optax.stateless(lambda updates, _: scaled(rates, updates))

    def init(params: Any) -> optax.OptState:
        patterns.first_match([name for name, _ in rates], params, "optim.rates")
        return scale.init(params)

    return optax.GradientTransformation(init, scale.update)


def frozen(names: Sequence[str], params: Any) -> Any:
    """Marks the parameters that stay as they are.

    Raises:
      UserError: a pattern matches none, or all parameters are frozen.
    """
    marks = jax.tree.map(lambda n: n >= 0, patterns.first_match(names, params, "optim.frozen"))
    if all(jax.tree.leaves(marks)):
        raise UserError("config key 'optim.frozen': all weights are frozen, so nothing is trained")
    return marks


def scaled(rates: Sequence[tuple[str, float]], updates: Any) -> Any:
    """Multiplies updates by the factors of `OptimizerConfig.rates`."""
    numbers = patterns.first_match([name for name, _ in rates], updates, "optim.rates")
    return jax.tree.map(lambda u, n: u if n < 0 else rates[n][1] * u, updates, numbers)


def decayed(params: Any) -> Any:
    """Marks the parameters that weight decay applies to: no bias, gain or embedding."""

    def wanted(path: tuple[Any, ...], value: Any) -> bool:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        return jnp.ndim(value) >= 2 and not re.search(r"bias|scale|gain|norm|embedding", name)

    return jax.tree_util.tree_map_with_path(wanted, params)


def as_matrices(params: Any) -> Any:
    """How Muon reads each parameter: kernels `[... in out]` as matrices, None is left to AdamW."""

    def dimensions(wanted: bool, value: Any) -> optax.contrib.MuonDimensionNumbers | None:
        last = jnp.ndim(value) - 1
        inputs = tuple(range(last))
        return optax.contrib.MuonDimensionNumbers(inputs, last) if wanted else None

    return jax.tree.map(dimensions, decayed(params), params)


def moving_average(
    decay: float, step: jax.Array, average: Any, params: Any, names: Sequence[str] = ()
) -> Any:
    """One step of the moving average.

    Args:
      decay: at the end.
      step: number of updates made, this one included.
      average: before it.
      params: after it.
      names: `OptimizerConfig.frozen`; these weights are not averaged, which would round them.
    """
    d = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(
        lambda a, p, still: p if still else d * a + (1 - d) * p,
        *(average, params, frozen(names, params)),
    )
