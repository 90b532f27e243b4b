"""Time stages: recurrent cells `(carry, x) -> (carry, y)` and their scan over frames.

Source: paper section 3.3. Every node runs the same cell on its own state; no messages are sent.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.linear import linear

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
    memory, output = carry
    gates = projected + linear(output, recurrent_kernel)
    input_gate, candidate, forget_gate, output_gate = jnp.split(gates, 4, axis=-1)
    memory = nn.sigmoid(forget_gate) * memory + nn.sigmoid(input_gate) * jnp.tanh(candidate)
    output = nn.sigmoid(output_gate) * jnp.tanh(memory)
    return (memory, output), output


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


class TimeStage(nn.Module):
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
    def __call__(self, nodes: jax.Array) -> jax.Array:
        """Runs `[n t b d]` nodes through the cell from a zero state; same shape."""
        step, input_kernel, bias = self._weights(nodes.shape[-1], nodes.dtype)
        frames = jnp.swapaxes(nodes, 0, 1)  # [t n b d]: the scan wants frames first
        projected = linear(frames, input_kernel, bias)
        zero = jnp.zeros_like(frames, shape=(*frames.shape[1:-1], self.dim))
        _, outputs = jax.lax.scan(step, (zero,) * STATES[self.cell], projected)
        return jnp.swapaxes(outputs, 0, 1)

    def _weights(self, width: int, dtype: Any) -> tuple[Callable[..., Any], jax.Array, jax.Array]:
        """The step `(carry, projected) -> (carry, y)`, and kernel and bias of the input product."""
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
            return step, input_kernel, bias
        if self.two_biases:
            bias = bias + param("recurrent_bias", zeros, gates * self.dim)
        return functools.partial(lstm_cell, recurrent_kernel), input_kernel, bias
