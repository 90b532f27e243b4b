"""Heads: what the classifier reads of every frame, `[b t d]`."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rstg_jax.errors import UserError
from rstg_jax.rstg.recurrent_cells import Cell, FrameRNN


@dataclasses.dataclass(frozen=True)
class NodePooling:
    """To-vec: the nodes of the block at the place "final".

    Attributes:
      node_sum: "sum" over nodes (official), or their "mean".
      project_back: project the nodes back to the width of the features first (official).
    """

    node_sum: Literal["sum", "mean"] = "sum"
    project_back: bool = False

    def __call__(self, nodes: jax.Array) -> jax.Array:
        """Nodes `[b t n d]` -> `[b t d]`, float32."""
        nodes = nodes.astype(jnp.float32)
        return nodes.sum(axis=2) if self.node_sum == "sum" else nodes.mean(axis=2)


@dataclasses.dataclass(frozen=True)
class GlobalPooling:
    """The mean of the last feature map, for C2D, I3D and networks with RSTG inside (to-map).

    Attributes:
      pool_window: official models average windows of this many pixels a side (14, the training
        size), then the windows; on larger maps pixels near the border count less. 0 takes all
        pixels alike.
    """

    pool_window: int = 0

    def __call__(self, features: jax.Array) -> jax.Array:
        """Features `[b t h w c]` -> `[b t c]`, float32.

        Raises:
          UserError: the map is smaller than the window.
        """
        features = features.astype(jnp.float32)
        if not self.pool_window:
            return features.mean(axis=(2, 3))
        if min(features.shape[2:4]) < self.pool_window:
            raise UserError(
                f"model.head.pool_window={self.pool_window} is larger than the feature map of "
                f"{features.shape[2]}x{features.shape[3]}: give larger frames, or 0"
            )
        rows, columns = (self._weights(size) for size in features.shape[2:4])
        return jnp.einsum("bthwc,h,w->btc", features, rows, columns)

    def _weights(self, size: int) -> np.ndarray:
        """Share of each row in the mean of all windows, float32 `[size]`; they sum to 1."""
        windows = size - self.pool_window + 1
        count = np.convolve(np.ones(windows), np.ones(self.pool_window))
        return (count / count.sum()).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class RNNHead:
    """The poster's baselines without a graph: one vector a frame, then a recurrent cell.

    Attributes:
      vector: how a map becomes a vector: its "mean" (Mean + LSTM), or 3x3 convolutions until one
        cell is left (Conv + LSTM).
      cell: "lstm" or "gru".
      dim: features of the cell, and channels of the convolutions.
    """

    vector: Literal["mean", "conv"] = "mean"
    cell: Cell = "lstm"
    dim: int = 512


class Recurrent(nn.Module):
    """The network of a `RNNHead`."""

    config: RNNHead

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Features `[b t h w c]` -> `[b t d]`, float32."""
        b, t = features.shape[:2]
        if self.config.vector == "mean":
            x = features.mean(axis=(2, 3))  # [b t c]
        else:
            x = features.reshape(b * t, *features.shape[2:])
            number = 0
            while x.shape[1:3] != (1, 1):
                kernel = (min(3, x.shape[1]), min(3, x.shape[2]))
                init = nn.initializers.he_normal()
                conv = nn.Conv(
                    self.config.dim,
                    kernel,
                    padding="VALID",
                    kernel_init=init,
                    dtype=x.dtype,
                    name=f"conv{number}",
                )
                x = nn.relu(conv(x))
                number += 1
            x = x.reshape(b, t, -1)
        cell = FrameRNN(self.config.dim, self.config.cell, 1.0, name=self.config.cell)
        one_node = jnp.einsum("btc->tbc", x)[None]  # [n t b c]
        return jnp.einsum("ntbd->btd", cell(one_node)[0]).astype(jnp.float32)
