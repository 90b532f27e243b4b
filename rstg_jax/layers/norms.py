"""Norms with statistics over chosen axes, always computed in float32."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.layers.array_types import Array, Float

# TensorFlow 1's `contrib.layers.layer_norm` and `tf.layers.batch_normalization` defaults.
OFFICIAL_LAYER_NORM_EPSILON = 1e-12
BATCH_NORM_EPSILON = 1e-3
BATCH_NORM_MOMENTUM = 0.99


class LayerNorm(nn.Module):
    """Layer norm with gain and bias per feature and statistics over `axes`.

    Attributes:
      axes: of the mean and the variance. `(-1,)` normalises each token independently. The official
        code reduces every axis but the batch, so that nodes (and before the graph, frames) share
        statistics.
      epsilon: added to the variance.
      gain: whether there is a learned gain; there always is a bias.
    """

    axes: tuple[int, ...] = (-1,)
    epsilon: float = 1e-6
    gain: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Normalises `x`, in its dtype."""
        mean, variance = _moments(x, self.axes)
        init = nn.initializers.ones if self.gain else None
        return _affine(self, x, mean, variance, self.epsilon, init)


class BatchNorm(nn.Module):
    """Batch norm with training statistics per frame, as in the official graph.

    The official code builds one op per frame. These ops share their variables, and each updates the
    moving statistics. Here all frames are normalised at once and then update the moving statistics
    in frame order: one update per entry of the axes that the statistics keep.

    Attributes:
      axes: of the batch statistics of `x`.
      unbiased: the moving variance tracks the unbiased batch variance. TensorFlow's fused kernel
        does so for arrays of rank 4 in the official layout, its plain kernel does not.
      epsilon: added to the variance.
      momentum: weight of the old moving statistics in an update.
      zero: the initial gain is 0 instead of 1.
    """

    axes: tuple[int, ...]
    unbiased: bool
    epsilon: float = BATCH_NORM_EPSILON
    momentum: float = BATCH_NORM_MOMENTUM
    zero: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"], *, train: bool) -> Float[Array, "*batch d"]:
        """Normalises `x`, in its dtype."""
        features = x.shape[-1]
        init = nn.initializers.zeros if self.zero else nn.initializers.ones
        moving_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,), jnp.float32)
        moving_variance = self.variable("batch_stats", "var", jnp.ones, (features,), jnp.float32)
        if not train:
            moving = (moving_mean.value, moving_variance.value)
            return _affine(self, x, *moving, self.epsilon, init)
        mean, variance = _moments(x, self.axes)
        if not self.is_initializing():
            count = x.size // mean.size
            correction = count / (count - 1) if self.unbiased and count > 1 else 1.0
            self._track(moving_mean, mean)
            self._track(moving_variance, variance * correction)
        return _affine(self, x, mean, variance, self.epsilon, init)

    def _track(self, moving: nn.Variable, batch: Array) -> None:
        """Applies one exponential moving update per row (frame) of `batch`."""
        rows = batch.reshape(-1, batch.shape[-1])
        steps = len(rows)
        weights = (1 - self.momentum) * self.momentum ** jnp.arange(steps - 1, -1, -1.0)
        moving.value = self.momentum**steps * moving.value + weights @ rows


def _moments(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Mean and biased variance in float32, with the reduced axes as 1."""
    x = x.astype(jnp.float32)
    mean = x.mean(axes, keepdims=True)
    return mean, jnp.square(x - mean).mean(axes, keepdims=True)


def _affine(
    module: nn.Module,
    x: Array,
    mean: Array,
    variance: Array,
    epsilon: float,
    gain_init: nn.initializers.Initializer | None,
) -> Array:
    """Applies the statistics, and the parameters `scale` (if any) and `bias` of the module."""
    # The gain comes last: multiplied into the deviation first, its gradient would need one more
    # large array.
    y = (x.astype(jnp.float32) - mean) * jax.lax.rsqrt(variance + epsilon)
    if gain_init is not None:
        y = y * module.param("scale", gain_init, (x.shape[-1],), jnp.float32)
    bias = module.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
    return (y + bias).astype(x.dtype)
