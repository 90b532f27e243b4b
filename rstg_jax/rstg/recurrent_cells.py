"""Time stages: recurrent cells `(carry, x) -> (carry, y)` and their scan over frames.

Source: paper section 3.3. Every node runs the same cell on its own state; no messages are sent.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.layers.linear import linear

Cell = Literal["lstm", "gru"]
Carry = tuple[jax.Array, ...]  # LSTM: memory and output; GRU: output; each [... d]
GATES = {"lstm": 4, "gru": 3}
STATES = {"lstm": 2, "gru": 1}


def lstm_cell(
    recurrent_kernel: jax.Array, carry: Carry, projected: jax.Array
) -> tuple[Carry, jax.Array]:
    """One LSTM step.

    Args:
      recurrent_kernel: `[d 4d]`, gate columns in the order input, candidate, forget, output.
      carry: memory and previous output, each `[... d]`.
      projected: input product plus bias, `[... 4d]`.

    Returns:
      The new carry and the output `[... d]`.
    """
    carry, (output, *_) = _lstm_step(recurrent_kernel, carry, projected)
    return carry, output


def _lstm_step(
    recurrent_kernel: jax.Array, carry: Carry, projected: jax.Array
) -> tuple[Carry, tuple[jax.Array, ...]]:
    """New carry; output, its `tanh(memory)`, the memory before, and the gates after activation."""
    memory, output = carry
    gates = projected + linear(output, recurrent_kernel)
    write, candidate, keep, show = jnp.split(gates, 4, axis=-1)
    write, keep, show = nn.sigmoid(write), nn.sigmoid(keep), nn.sigmoid(show)
    candidate = jnp.tanh(candidate)
    new = keep * memory + write * candidate
    shown = jnp.tanh(new)
    output = show * shown
    return (new, output), (output, shown, memory, write, candidate, keep, show)


@jax.custom_jvp
def scan_lstm(
    recurrent_kernel: jax.Array, carry: Carry, projected: jax.Array
) -> tuple[Carry, jax.Array]:
    """Runs `lstm_cell` over all frames, `[t ... 4d]` -> the last carry and `[t ... d]`.

    Its derivative is written out so that the kernel's tangent, hence its gradient, is ONE product
    of all frames: JAX's own would add up the gradient of a `[d 4d]` kernel frame by frame. Forward
    and reverse mode work, of any order.
    """
    step = functools.partial(lstm_cell, recurrent_kernel)
    return jax.lax.scan(step, carry, projected)


@scan_lstm.defjvp
def _scan_lstm_jvp(primals: tuple, tangents: tuple) -> tuple:
    kernel, carry, projected = primals
    d_kernel, d_carry, d_projected = tangents

    def forward(carry: Carry, x: jax.Array) -> tuple[Carry, tuple[jax.Array, jax.Array]]:
        carry, (output, shown, memory, write, candidate, keep, show) = _lstm_step(kernel, carry, x)
        by_gate = (  # derivatives of the memory by three gates, of the output by the fourth
            candidate * write * (1 - write),
            write * (1 - candidate * candidate),
            memory * keep * (1 - keep),
            shown * show * (1 - show),
        )
        factors = (*by_gate, keep, show * (1 - shown * shown))
        return carry, (output, jnp.concatenate(factors, axis=-1))

    last, (outputs, factors) = jax.lax.scan(forward, carry, projected)
    before = jnp.concatenate([carry[1][None], outputs[:-1]])
    d_gates = d_projected + linear(before, d_kernel)

    def tangent(d_carry: Carry, x: tuple[jax.Array, jax.Array]) -> tuple[Carry, jax.Array]:
        d_memory, d_output = d_carry
        d_gates, factors = x
        d_gates = d_gates + linear(d_output, kernel)
        *by_gate, keep, through = jnp.split(factors, 6, axis=-1)
        d_write, d_candidate, d_keep, d_show = (
            factor * d for factor, d in zip(by_gate, jnp.split(d_gates, 4, axis=-1), strict=True)
        )
        d_memory = keep * d_memory + d_write + d_candidate + d_keep
        d_output = through * d_memory + d_show
        return (d_memory, d_output), d_output

    d_last, d_outputs = jax.lax.scan(tangent, d_carry, (d_gates, factors))
    return (last, outputs), (d_last, d_outputs)


def gru_cell(
    recurrent_kernel: jax.Array, recurrent_bias: jax.Array, carry: Carry, projected: jax.Array
) -> tuple[Carry, jax.Array]:
    """One GRU step, in cuDNN's form: the reset gate acts on the recurrent product.

    Args:
      recurrent_kernel: `[d 3d]`, gate columns in the order reset, keep, candidate.
      recurrent_bias: of the candidate's recurrent product, `[d]`.
      carry: previous output, `[... d]`.
      projected: input product plus bias, `[... 3d]`.

    Returns:
      The new carry and the output `[... d]`.
    """
    (output,) = carry
    recurrent = linear(output, recurrent_kernel)
    reset, keep, candidate = jnp.split(projected, 3, axis=-1)
    from_reset, from_keep, from_candidate = jnp.split(recurrent, 3, axis=-1)
    reset, keep = nn.sigmoid(reset + from_reset), nn.sigmoid(keep + from_keep)
    candidate = jnp.tanh(candidate + reset * (from_candidate + recurrent_bias))
    output = keep * output + (1 - keep) * candidate
    return (output,), output


def glorot_per_gate(key: jax.Array, shape: tuple[int, int], gates: int = 4) -> jax.Array:
    """Glorot-uniform `[in gates*d]` kernel with the limit of ONE gate, as cuDNN's LSTM starts."""
    fan_in, columns = shape
    limit = (6 / (fan_in + columns // gates)) ** 0.5
    return jax.random.uniform(key, shape, jnp.float32, -limit, limit)


class FrameRNN(nn.Module):
    """A recurrent cell over frames, shared by all nodes.

    The input product of all frames is one matrix product outside the scan; only the recurrent
    product stays inside.

    Attributes:
      dim: number of features d.
      cell: "lstm" or "gru".
      forget_bias: start value of the bias of the gate that keeps the state (LSTM's forget gate,
        GRU's update gate); the official code has 0.
      two_biases: keep the LSTM's bias as two vectors that are both trained, as cuDNN does: their
        sum then moves at twice the rate.
    """

    dim: int
    cell: Cell = "lstm"
    forget_bias: float = 0.0
    two_biases: bool = False

    @nn.compact
    def __call__(self, nodes: jax.Array, carry: Carry | None = None) -> tuple[jax.Array, Carry]:
        """Runs `[n t b d]` nodes through the cell.

        Args:
          nodes: inputs of all frames.
          carry: state before the first frame, arrays `[n b d]`; zero if None.

        Returns:
          Outputs of the same shape, and the state after the last frame.
        """
        frames = jnp.swapaxes(nodes, 0, 1)  # [t n b d]: the scan wants frames first
        run, input_kernel, bias = self._weights(nodes.shape[-1], nodes.dtype)
        projected = linear(frames, input_kernel, bias)
        if carry is None:
            zero = jnp.zeros_like(frames, shape=(*frames.shape[1:-1], self.dim))
            carry = (zero,) * STATES[self.cell]
        carry, outputs = run(carry, projected)
        return jnp.swapaxes(outputs, 0, 1), carry

    def _weights(self, width: int, dtype: Any) -> tuple[Callable[..., Any], jax.Array, jax.Array]:
        """The scan `(carry, projected) -> (carry, y)`; kernel and bias of the input product."""
        gates = GATES[self.cell]
        kept = 2 if self.cell == "lstm" else 1  # place of the gate that keeps the state

        def bias_init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            gate = slice(kept * self.dim, (kept + 1) * self.dim)
            return jnp.zeros(shape).at[gate].set(self.forget_bias)

        def param(name: str, init: Callable[..., jax.Array], *shape: int) -> jax.Array:
            return self.param(name, init, shape).astype(dtype)

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
