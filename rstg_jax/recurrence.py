"""Time stages: recurrent cells `(carry, x) -> (carry, y)` and their scan over frames.

Source: paper section 3.3. Every node runs the same cell on its own state; no messages are sent.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.linear import linear

Carry = tuple[jax.Array, jax.Array]  # LSTM memory and output, each [... d]


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


def scan_frames(recurrent_kernel: jax.Array, projected: jax.Array) -> jax.Array:
    """Runs the cell over all frames from a zero state, `[t ... 4d]` -> `[t ... d]`."""
    zero = jnp.zeros_like(projected, shape=(*projected.shape[1:-1], recurrent_kernel.shape[0]))

    def step(carry: Carry, frame: jax.Array) -> tuple[Carry, jax.Array]:
        return lstm_cell(recurrent_kernel, carry, frame)

    return jax.lax.scan(step, (zero, zero), projected)[1]


def glorot_per_gate(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Glorot-uniform `[in 4d]` kernel with the limit of ONE gate, as cuDNN's LSTM starts."""
    fan_in, columns = shape
    limit = (6 / (fan_in + columns // 4)) ** 0.5
    return jax.random.uniform(key, shape, jnp.float32, -limit, limit)


class TimeStage(nn.Module):
    """LSTM over frames, shared by all nodes.

    The input product of all frames is one matrix product outside the scan; only the recurrent
    product stays inside.

    Attributes:
      dim: number of features d.
      forget_bias: start value of the forget gate's bias; the official code has 0.
    """

    dim: int
    forget_bias: float = 0.0

    @nn.compact
    def __call__(self, nodes: jax.Array) -> jax.Array:
        """Runs `[n t b d]` nodes through the LSTM from a zero state; same shape."""

        def bias_init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return jnp.zeros(shape).at[2 * self.dim : 3 * self.dim].set(self.forget_bias)

        shape = (nodes.shape[-1], 4 * self.dim)
        input_kernel = self.param("input_kernel", glorot_per_gate, shape)
        recurrent_kernel = self.param("recurrent_kernel", glorot_per_gate, (self.dim, 4 * self.dim))
        bias = self.param("bias", bias_init, (4 * self.dim,))
        input_kernel, recurrent_kernel, bias = (
            weight.astype(nodes.dtype) for weight in (input_kernel, recurrent_kernel, bias)
        )
        frames = jnp.swapaxes(nodes, 0, 1)  # [t n b d]: the scan wants frames first
        projected = linear(frames, input_kernel, bias)
        return jnp.swapaxes(scan_frames(recurrent_kernel, projected), 0, 1)
