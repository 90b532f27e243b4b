"""Norms with statistics over chosen axes, computed in float32 at least."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.layers.array_types import Array, Float
from rstg_jax.layers.precision import widened

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
        y = standardise(widened(x), self.axes, self.epsilon)
        return _affine(self, y, nn.initializers.ones if self.gain else None).astype(x.dtype)


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
            y = _scaled(x, moving_mean.value, moving_variance.value, self.epsilon)
            return _affine(self, y, init).astype(x.dtype)
        mean, variance = _moments(x, self.axes)
        if not self.is_initializing():
            count = x.size // mean.size
            correction = count / (count - 1) if self.unbiased and count > 1 else 1.0
            self._track(moving_mean, mean)
            self._track(moving_variance, variance * correction)
        y = _scaled(x, mean, variance, self.epsilon)
        return _affine(self, y, init).astype(x.dtype)

    def _track(self, moving: nn.Variable, batch: Array) -> None:
        """Applies one exponential moving update per row (frame) of `batch`."""
        rows = batch.reshape(-1, batch.shape[-1])
        steps = len(rows)
        weights = (1 - self.momentum) * self.momentum ** jnp.arange(steps - 1, -1, -1.0, rows.dtype)
        moving.value = self.momentum**steps * moving.value + weights @ rows


def _moments(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Mean and biased variance in float32 at least, with the reduced axes as 1."""
    x = widened(x)
    mean = x.mean(axes, keepdims=True)
    return mean, jnp.square(x - mean).mean(axes, keepdims=True)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def standardise(
    x: Float[Array, "*batch d"], axes: tuple[int, ...], epsilon: float
) -> Float[Array, "*batch d"]:
    """Subtracts the mean over `axes` and divides by the standard deviation.

    The derivative is written out, because it passes over the large arrays fewer times than JAX's
    own, which goes through mean and variance. Forward and reverse mode work, of any order.
    """
    return _scaled(x, *_moments(x, axes), epsilon)


@standardise.defjvp
def _standardise_jvp(
    axes: tuple[int, ...], epsilon: float, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    (x,), (d_x,) = primals, tangents
    mean, variance = _moments(x, axes)
    factor = jax.lax.rsqrt(variance + epsilon)
    y = (x - mean) * factor
    along_y = (y * d_x).mean(axes, keepdims=True)
    return y, (d_x - d_x.mean(axes, keepdims=True) - y * along_y) * factor


def _scaled(x: Array, mean: Array, variance: Array, epsilon: float) -> Array:
    """Applies statistics, in float32 at least."""
    return (widened(x) - mean) * jax.lax.rsqrt(variance + epsilon)


def _affine(module: nn.Module, y: Array, gain_init: nn.initializers.Initializer | None) -> Array:
    """Applies the parameters `scale` (if any) and `bias` of the module."""
    # The gain comes last: multiplied into the deviation first, its gradient would need one more
    # large array.
    if gain_init is not None:
        y = y * module.param("scale", gain_init, (y.shape[-1],), jnp.float32)
    return y + module.param("bias", nn.initializers.zeros, (y.shape[-1],), jnp.float32)
