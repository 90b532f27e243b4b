"""Recurrent cells `(carry, x) -> (carry, y)` and their scan over frames.

Source: paper section 3.3. Every node runs the same cell on its own state; no messages are sent.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.layers.array_types import Array, Float
from rstg_jax.layers.linear import linear
from rstg_jax.layers.precision import wide_dtype
from rstg_jax.rstg import frame_attention, linear_recurrences, time_inputs
from rstg_jax.rstg.config import Cell

__all__ = ["Carry", "Cell", "FrameRNN", "glorot_per_gate", "gru_cell", "lstm_cell", "scan_lstm"]

# LSTM: c and h; LRU: real and imaginary part; GRU, RG-LRU, minGRU: one state; each [... d]. Others:
# see `frame_attention.kept_widths`. What `time_inputs` keeps of earlier frames follows.
Carry = tuple[Array, ...]
GATES = {"lstm": 4, "gru": 3}
STATES = {"lstm": 2, "gru": 1, "lru": 2, "rg_lru": 1, "min_gru": 1}
OTHERS = {**linear_recurrences.CELLS, **frame_attention.CELLS}  # without recurrent products


def carry_dtype(cell: Cell, dtype: Any) -> Any:
    """Type of the carry in a network that computes in `dtype`."""
    return wide_dtype(dtype) if cell in linear_recurrences.CELLS else dtype


def lstm_cell(
    recurrent_kernel: Float[Array, "d 4*d"], carry: Carry, projected: Float[Array, "*batch 4*d"]
) -> tuple[Carry, Float[Array, "*batch d"]]:
    """One LSTM step.

    Args:
      recurrent_kernel: gate columns in the order i, g, f, o.
      carry: cell state c and output h of the frame before, each `[... d]`.
      projected: input product plus bias.

    Returns:
      The new carry and the output h.
    """
    carry, (h, *_) = _lstm_step(recurrent_kernel, carry, projected)
    return carry, h


def _lstm_step(
    recurrent_kernel: Array, carry: Carry, projected: Array
) -> tuple[Carry, tuple[Array, ...]]:
    """New carry; new h, `tanh` of the new c, the old c, and the gates after activation."""
    c, h = carry
    i, g, f, o = jnp.split(projected + linear(h, recurrent_kernel), 4, axis=-1)
    i, f, o = nn.sigmoid(i), nn.sigmoid(f), nn.sigmoid(o)
    g = jnp.tanh(g)
    new_c = f * c + i * g
    tanh_c = jnp.tanh(new_c)
    h = o * tanh_c
    return (new_c, h), (h, tanh_c, c, i, g, f, o)


@jax.custom_jvp
def scan_lstm(
    recurrent_kernel: Float[Array, "d 4*d"], carry: Carry, projected: Float[Array, "t *batch 4*d"]
) -> tuple[Carry, Float[Array, "t *batch d"]]:
    """Runs `lstm_cell` over all frames; returns the last carry and all outputs.

    The derivative is written out so that the tangent of the kernel, and hence its gradient, is ONE
    product of all frames. JAX's own derivative adds up the gradient of a `[d 4d]` kernel frame by
    frame. Forward and reverse mode work, of any order.
    """
    step = functools.partial(lstm_cell, recurrent_kernel)
    return jax.lax.scan(step, carry, projected)


@scan_lstm.defjvp
def _scan_lstm_jvp(primals: tuple, tangents: tuple) -> tuple:
    kernel, carry, projected = primals
    d_kernel, d_carry, d_projected = tangents

    def forward(carry: Carry, x: Array) -> tuple[Carry, tuple[Array, Array]]:
        carry, (h, tanh_c, c, i, g, f, o) = _lstm_step(kernel, carry, x)
        by_gate = (  # derivatives of the new c by i, g, f before activation, and of h by o
            g * i * (1 - i),
            i * (1 - g * g),
            c * f * (1 - f),
            tanh_c * o * (1 - o),
        )
        factors = (*by_gate, f, o * (1 - tanh_c * tanh_c))  # of c by the old c, of h by the new c
        return carry, (h, jnp.concatenate(factors, axis=-1))

    last, (h, factors) = jax.lax.scan(forward, carry, projected)
    h_before = jnp.concatenate([carry[1][None], h[:-1]])
    d_gates = d_projected + linear(h_before, d_kernel)

    def tangent(d_carry: Carry, x: tuple[Array, Array]) -> tuple[Carry, Array]:
        d_c, d_h = d_carry
        d_gates, factors = x
        d_gates = d_gates + linear(d_h, kernel)
        *by_gate, c_by_c, h_by_c = jnp.split(factors, 6, axis=-1)
        d_i, d_g, d_f, d_o = (
            factor * d for factor, d in zip(by_gate, jnp.split(d_gates, 4, axis=-1), strict=True)
        )
        d_c = c_by_c * d_c + d_i + d_g + d_f
        d_h = h_by_c * d_c + d_o
        return (d_c, d_h), d_h

    d_last, d_outputs = jax.lax.scan(tangent, d_carry, (d_gates, factors))
    return (last, h), (d_last, d_outputs)


def gru_cell(
    recurrent_kernel: Float[Array, "d 3*d"],
    recurrent_bias: Float[Array, " d"],
    carry: Carry,
    projected: Float[Array, "*batch 3*d"],
) -> tuple[Carry, Float[Array, "*batch d"]]:
    """One GRU step, in cuDNN's form: the reset gate acts on the recurrent product.

    Args:
      recurrent_kernel: gate columns in the order r (reset), z (update), n (candidate).
      recurrent_bias: of the candidate's recurrent product.
      carry: output h of the frame before, `[... d]`.
      projected: input product plus bias.

    Returns:
      The new carry and the output h.
    """
    (h,) = carry
    recurrent = linear(h, recurrent_kernel)
    r, z, n = jnp.split(projected, 3, axis=-1)
    r_h, z_h, n_h = jnp.split(recurrent, 3, axis=-1)
    r, z = nn.sigmoid(r + r_h), nn.sigmoid(z + z_h)
    n = jnp.tanh(n + r * (n_h + recurrent_bias))
    h = z * h + (1 - z) * n
    return (h,), h


def glorot_per_gate(key: Array, shape: tuple[int, int], gates: int = 4) -> Array:
    """Glorot-uniform `[in gates*d]` kernel with the limit of ONE gate, as in cuDNN's LSTM."""
    fan_in, columns = shape
    limit = (6 / (fan_in + columns // gates)) ** 0.5
    return jax.random.uniform(key, shape, jnp.float32, -limit, limit)


class FrameRNN(nn.Module):
    """A recurrent cell over frames, shared by all nodes.

    The input product of all frames is one matrix product outside the scan; only the recurrent
    product of LSTM and GRU stays inside.

    Attributes:
      dim: number of features d.
      cell: "lstm", "gru", or one of `linear_recurrences` or `frame_attention`.
      forget_bias: initial bias of the gate that keeps the state (f of the LSTM, z of the GRU);
        0 in the official code.
      two_biases: parametrizes the bias of the LSTM as the sum of two trained vectors, as cuDNN
        does; the sum then moves at twice the rate.
      memory_span: longest time constant of the linear recurrences at the start, in frames; what
        `frame_attention` sees of the past.
      differences: the cell reads the inputs of every frame together with
        `time_inputs.DIFFERENCE_GAIN` times their difference to those of the frame before, which are
        zero for the first frame.
      lags: the cell also reads, for each of these numbers, a projection of the inputs (and
        differences) of so many frames before to d / (number of lags) features; zero before the
        first frame.
    """

    dim: int
    cell: Cell = "lstm"
    forget_bias: float = 0.0
    two_biases: bool = False
    memory_span: int = 256
    differences: bool = False
    lags: tuple[int, ...] = ()

    @nn.compact
    def __call__(
        self, nodes: Float[Array, "n t *batch c"], carry: Carry | None = None
    ) -> tuple[Float[Array, "n t *batch d"], Carry]:
        """Runs the cell over the frames of every node.

        Args:
          nodes: inputs of all frames.
          carry: before the first frame, see `zero_carry`; None is that.

        Returns:
          Outputs of all frames, and the carry after the last one.
        """
        frames = jnp.swapaxes(nodes, 0, 1)  # [t n *batch c]: the scan wants frames first
        frames, carry, kept = self._with_earlier_frames(frames, carry)
        run, input_kernel, bias = self._weights(frames.shape[-1], nodes.dtype)
        projected = linear(frames, input_kernel, bias)
        if carry is None and self.cell not in frame_attention.CELLS:
            # Of an array that lies where the outputs will, as a scan on Explicit axes wants it.
            carry = self._zero_state(projected[0, ..., : self.dim])
        carry, outputs = run(carry, projected)
        return jnp.swapaxes(outputs, 0, 1), (*carry, *kept)

    @nn.nowrap
    def zero_carry(self, like: Array) -> Carry:
        """The carry before the first frame.

        Args:
          like: `[... d]` of the network's type; the carry lies on the devices where it does.
        """
        earlier = time_inputs.zeros(like, self.dim, self.differences, self.lags)
        return (*self._zero_state(like), *earlier)

    @nn.nowrap
    def _zero_state(self, like: Array) -> Carry:
        """The part of the carry that the cell itself has."""
        if self.cell in frame_attention.CELLS:
            widths = frame_attention.kept_widths(self.dim, self.memory_span)
            return tuple(time_inputs.wide_zeros(like, width) for width in widths)
        zero = jnp.zeros_like(like, carry_dtype(self.cell, like.dtype))
        return (zero,) * STATES[self.cell]

    def _with_earlier_frames(
        self, frames: Array, carry: Carry | None
    ) -> tuple[Array, Carry | None, Carry]:
        """Longer nodes, the carry of the cell itself, and what is kept for later frames."""
        if carry is None:
            before = time_inputs.zeros(frames[0], self.dim, self.differences, self.lags)
        else:
            count = len(carry) - self.differences - len(self.lags)
            carry, before = carry[:count], carry[count:]
        inputs = frames
        kept: Carry = ()
        if self.differences:
            inputs = time_inputs.with_differences(frames, before[0])
            kept = (frames[-1].astype(before[0].dtype),)
        if self.lags:
            width = time_inputs.width_of_lag(self.dim, self.lags) * len(self.lags)
            init = nn.initializers.lecun_normal()
            kernel = self.param("lag_kernel", init, (inputs.shape[-1], width), jnp.float32)
            kernel = kernel.astype(frames.dtype)
            inputs, late = time_inputs.with_lags(inputs, kernel, self.lags, before[len(kept) :])
            kept += late
        return inputs, carry, kept

    def _weights(self, width: int, dtype: Any) -> tuple[Callable[..., Any], Array, Array | None]:
        """The scan `(carry, projected) -> (carry, y)`; kernel and bias of the input product."""

        def declare(name: str, init: Callable[..., Array], *shape: int) -> Array:
            # Converted, as not all of these take a dtype: those of JAX follow jax_enable_x64.
            return self.param(name, lambda *args: init(*args).astype(jnp.float32), shape)

        if (make := OTHERS.get(self.cell)) is not None:
            return make(declare, width, self.dim, self.memory_span, dtype)
        gates = GATES[self.cell]
        keep = 2 if self.cell == "lstm" else 1  # position of the gate that keeps the state: f, z

        def bias_init(key: Array, shape: tuple[int, ...]) -> Array:
            gate = slice(keep * self.dim, (keep + 1) * self.dim)
            return jnp.zeros(shape).at[gate].set(self.forget_bias)

        def param(name: str, init: Callable[..., Array], *shape: int) -> Array:
            return declare(name, init, *shape).astype(dtype)

        kernel_init = functools.partial(glorot_per_gate, gates=gates)
        zeros = nn.initializers.zeros
        input_kernel = param("input_kernel", kernel_init, width, gates * self.dim)
        recurrent_kernel = param("recurrent_kernel", kernel_init, self.dim, gates * self.dim)
        bias = param("bias", bias_init, gates * self.dim)
        if self.cell == "gru":
            recurrent_bias = param("recurrent_bias", zeros, self.dim)
            step = functools.partial(gru_cell, recurrent_kernel, recurrent_bias)
            return functools.partial(jax.lax.scan, step), input_kernel, bias
        if self.two_biases:
            bias = bias + param("recurrent_bias", zeros, gates * self.dim)
        return functools.partial(scan_lstm, recurrent_kernel), input_kernel, bias
