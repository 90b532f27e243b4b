"""Cells whose state follows `h_t = a_t h_(t-1) + b_t`, feature by feature.

Neither the decay a nor the input b depends on the state: all matrix products are outside the
recurrence, and the states of T frames are an associative scan of depth O(log T). A frame by itself,
as in streaming, is one step.

lru       Linear Recurrent Unit (arXiv 2303.06349): complex decays that are constant; linear.
rg_lru    Griffin's recurrent block without its convolution (arXiv 2402.19427): real decays and
          inputs gated by the frame, and a GELU branch.
min_gru   minGRU (arXiv 2410.01201), the form without logarithms: decay 1 - z, input z W x.

All begin with time constants of 1 to `memory_span` frames, evenly spaced on a logarithmic scale: a
unit with time constant s keeps exp(-1/s) of its state. This start is ours; LRU and RG-LRU are
published with uniform draws from a ring, minGRU without a bias and hence with a half-life of one
frame. RG-LRU here begins with a zero state instead of an unscaled first input, LRU has no second
path from input to output: the block has a residual connection.

Decays are parametrised by their logarithm. Gates, decays and states are float32 also in a bfloat16
network: in bfloat16 0.999 would be 1.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rstg_jax.layers.array_types import Array, Float, Shaped
from rstg_jax.layers.linear import linear
from rstg_jax.layers.precision import wide_dtype

Parts = tuple[Array, ...]  # a real array, or real and imaginary part
Declare = Callable[..., Array]  # name, init, shape -> a float32 weight
Run = Callable[..., tuple[Parts, Array]]  # carry, projected -> carry, outputs
# Weights of a cell: its scan, and kernel and bias of the input product.
Cell = tuple[Run, Array, Array | None]

RG_LRU_POWER = 8  # of the decay; fixed in the paper
MAX_SLOPE = 1000  # of the square root at 0, in the backward pass
MAX_LOG_RATE = 4.0  # beyond it LRU's decay is below 1e-23


# --- the recurrence -------------------------------------------------------------------------------


def scan_states(decay: Parts, inputs: Parts, before: Parts) -> Parts:
    """States `h_t = a_t h_(t-1) + b_t` of all frames.

    The derivatives, in both modes and of any order, are those of the linear system that the states
    solve: the backward pass is the same scan from the last frame to the first, and keeps decays and
    states only.

    Args:
      decay: a, `[t ...]`, real or complex; axes behind the first may broadcast.
      inputs: b, `[t ...]`.
      before: the state before the first frame, `[...]`.

    Returns:
      The states `[t ...]`.
    """
    decay = tuple(varying_as(part, inputs[0]) for part in decay)
    first = product(tuple(part[0] for part in decay), before)
    inputs = tuple(b.at[0].add(part) for b, part in zip(inputs, first, strict=True))
    later = tuple(part[1:] for part in decay)  # what the state of a frame keeps in the next one

    def forgotten(states: Parts) -> Parts:
        """The inputs of these states."""
        kept = product(later, tuple(h[:-1] for h in states))
        return tuple(h.at[1:].add(-part) for h, part in zip(states, kept, strict=True))

    def solve(_: Any, inputs: Parts) -> Parts:
        return accumulate(decay, inputs)

    def solve_transposed(_: Any, cotangents: Parts) -> Parts:
        after = tuple(jnp.concatenate([part[1:], 0 * part[:1]]) for part in decay)
        conjugate = (after[0], *(-part for part in after[1:]))
        return accumulate(conjugate, cotangents, reverse=True)

    # Measured on a CPU: one frame after the other is 3 to 10 times faster there, and compiles in a
    # tenth of the time. Elsewhere T steps that do little are slow.
    accumulate = _one_by_one if jax.default_backend() == "cpu" else _in_parallel
    states: Parts = jax.lax.custom_linear_solve(forgotten, inputs, solve, solve_transposed)
    return states


def varying_as(x: Array, like: Array) -> Array:
    """`x` as an array that varies over the axes of a `jax.shard_map` over which `like` does.

    Decays of weights alone are the same on all devices; a linear solve wants them as its inputs.
    """
    there, here = (jax.typeof(array).manual_axis_type.varying for array in (like, x))
    axes = tuple(there - here)
    return jax.lax.pcast(x, axes, to="varying") if axes else x


def _in_parallel(decay: Parts, inputs: Parts, reverse: bool = False) -> Parts:
    """States from zero, or with `reverse` from zero behind the last frame."""

    def compose(earlier: tuple[Parts, Parts], later: tuple[Parts, Parts]) -> tuple[Parts, Parts]:
        (a1, b1), (a2, b2) = earlier, later
        return product(a2, a1), _step(a2, b1, b2)

    _, states = jax.lax.associative_scan(compose, (decay, inputs), reverse=reverse)
    return states


def _one_by_one(decay: Parts, inputs: Parts, reverse: bool = False) -> Parts:
    """The same as a loop over frames."""

    def step(state: Parts, frame: tuple[Parts, Parts]) -> tuple[Parts, Parts]:
        state = _step(frame[0], state, frame[1])
        return state, state

    zero = tuple(jnp.zeros_like(part[0]) for part in inputs)
    return jax.lax.scan(step, zero, (decay, inputs), reverse=reverse)[1]


def _step(decay: Parts, state: Parts, inputs: Parts) -> Parts:
    return tuple(x + y for x, y in zip(product(decay, state), inputs, strict=True))


def product(a: Parts, b: Parts) -> Parts:
    """Product of two real or two complex arrays."""
    if len(a) == 1:
        return (a[0] * b[0],)
    (a_re, a_im), (b_re, b_im) = a, b
    return a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re


# --- the cells ------------------------------------------------------------------------------------


def lru(declare: Declare, width: int, dim: int, memory_span: int, dtype: Any) -> Cell:
    """Complex constant decays `exp(-exp(log_rate) + i phase)`; the output is linear in the state.

    Phases are drawn from half a circle: together with the real part that is read, conjugates would
    add nothing.
    """
    rates = 1 / time_constants(dim, memory_span)

    def log_rates(key: Array, shape: tuple[int]) -> Array:
        del key, shape
        return jnp.asarray(np.log(rates), jnp.float32)

    def gains(key: Array, shape: tuple[int]) -> Array:
        del key, shape
        return jnp.asarray(np.sqrt(-np.expm1(-2 * rates)), jnp.float32)

    wide = wide_dtype(dtype)
    log_rate = declare("log_rate", log_rates, dim).astype(wide)
    phase = declare("phase", nn.initializers.uniform(np.pi), dim).astype(wide)
    gain = declare("gain", gains, dim).astype(wide)
    kernel_init = nn.initializers.lecun_normal()
    input_kernel = declare("input_kernel", kernel_init, width, 2 * dim).astype(dtype)
    output_kernel = declare("output_kernel", kernel_init, 2 * dim, dim).astype(dtype)

    def run(carry: Parts, projected: Array) -> tuple[Parts, Array]:
        re, im = jnp.split(projected.astype(wide), 2, axis=-1)
        modulus = jnp.exp(-jnp.exp(jnp.minimum(log_rate, MAX_LOG_RATE)))
        decay = (modulus * jnp.cos(phase), modulus * jnp.sin(phase))
        every_frame = (len(re), *(1,) * (re.ndim - 2), dim)
        states = scan_states(
            tuple(jnp.broadcast_to(part, every_frame) for part in decay),
            (gain * re, gain * im),
            carry,
        )
        outputs = linear(jnp.concatenate(states, axis=-1).astype(dtype), output_kernel)
        return last(states), outputs

    return run, input_kernel, None


def rg_lru(declare: Declare, width: int, dim: int, memory_span: int, dtype: Any) -> Cell:
    """Decays `exp(-8 r softplus(rate))` and inputs `sqrt(1 - a^2) i x`, both gated by the frame."""

    def rates(key: Array, shape: tuple[int]) -> Array:
        del key, shape  # at the start r is 1/2
        decays = 2 / RG_LRU_POWER / time_constants(dim, memory_span)
        return jnp.asarray(np.log(np.expm1(decays)), jnp.float32)

    wide = wide_dtype(dtype)
    rate = declare("rate", rates, dim).astype(wide)
    kernel_init, zeros = nn.initializers.lecun_normal(), nn.initializers.zeros
    input_kernel = declare("input_kernel", kernel_init, width, 2 * dim).astype(dtype)
    input_bias = declare("input_bias", zeros, 2 * dim).astype(dtype)
    gate_kernel = declare("gate_kernel", kernel_init, dim, 2 * dim).astype(dtype)
    gate_bias = declare("gate_bias", zeros, 2 * dim).astype(wide)
    output_kernel = declare("output_kernel", kernel_init, dim, dim).astype(dtype)

    def run(carry: Parts, projected: Array) -> tuple[Parts, Array]:
        x, branch = jnp.split(projected, 2, axis=-1)
        gates = nn.sigmoid(linear(x, gate_kernel).astype(wide) + gate_bias)
        r, i = jnp.split(gates, 2, axis=-1)
        log_decay = -RG_LRU_POWER * r * nn.softplus(rate)
        unit_variance = bounded_sqrt(-jnp.expm1(2 * log_decay))
        states = scan_states((jnp.exp(log_decay),), (unit_variance * i * x.astype(wide),), carry)
        return last(states), linear(states[0].astype(dtype) * nn.gelu(branch), output_kernel)

    return run, input_kernel, input_bias


def min_gru(declare: Declare, width: int, dim: int, memory_span: int, dtype: Any) -> Cell:
    """Decay 1 - z and input z n: the output is the state. Columns are in the order z, n."""

    def biases(key: Array, shape: tuple[int]) -> Array:
        del key
        update = np.log(np.expm1(1 / time_constants(dim, memory_span)))
        return jnp.zeros(shape).at[:dim].set(jnp.asarray(update, jnp.float32))

    wide = wide_dtype(dtype)
    kernel_init = nn.initializers.lecun_normal()
    input_kernel = declare("input_kernel", kernel_init, width, 2 * dim).astype(dtype)
    bias = declare("bias", biases, 2 * dim).astype(wide)

    def run(carry: Parts, projected: Array) -> tuple[Parts, Array]:
        z, n = jnp.split(projected.astype(wide) + bias, 2, axis=-1)
        keep, z = nn.sigmoid(-z), nn.sigmoid(z)  # 1 - z would lose the digits of a small decay
        states = scan_states((keep,), (z * n,), carry)
        return last(states), states[0].astype(dtype)

    return run, input_kernel, None


CELLS = {"lru": lru, "rg_lru": rg_lru, "min_gru": min_gru}


def time_constants(dim: int, memory_span: int) -> np.ndarray:
    """Frames after which a state has decayed to 1/e, float64 `[dim]`: from 1 to `memory_span`."""
    return np.geomspace(1.0, memory_span, dim)


def last(states: Parts) -> Parts:
    """State after the last frame."""
    return tuple(part[-1] for part in states)


@jax.custom_jvp
def bounded_sqrt(x: Shaped[Array, "..."]) -> Float[Array, "..."]:
    """Square root whose derivative is at most `MAX_SLOPE`, also at 0."""
    return jnp.sqrt(x)


@bounded_sqrt.defjvp
def _bounded_sqrt_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    root = bounded_sqrt(*primals)
    return root, tangents[0] / jnp.maximum(2 * root, 1 / MAX_SLOPE)
