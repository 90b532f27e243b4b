"""The head of the poster's baselines without a graph: a recurrent cell over frames."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from rstg_jax.errors import UserError
from rstg_jax.layers.norms import LayerNorm
from rstg_jax.models.heads.base import FinalBlock, HeadConfig
from rstg_jax.rstg.config import Cell, check_recurrence
from rstg_jax.rstg.recurrent_cells import FrameRNN


@dataclasses.dataclass(frozen=True)
class RNNHead(HeadConfig):
    """The poster's baselines without a graph: one vector per frame, then a recurrent cell.

    Attributes:
      vector: how a map becomes a vector: its "mean" (Mean + LSTM), or convolutions until one cell
        is left (Conv + LSTM).
      cell: that of the time stages of a block, see `RSTGConfig`.
      dim: features of the cell, and channels of the convolutions.
      norm: layer norm over channels after the ReLU of each convolution.
      kernel: side of the convolutions, or that of the map where it is smaller. A single one of the
        whole map begins as features of its sum.
      differences, lags, memory_span: those of the time stages of a block, see `RSTGConfig`.
    """

    final_block: ClassVar[FinalBlock] = "unused"

    vector: Literal["mean", "conv"] = "mean"
    cell: Cell = "lstm"
    dim: int = 512
    norm: bool = False
    kernel: int = 3
    differences: bool = False
    lags: tuple[int, ...] = ()
    memory_span: int = 256

    def __post_init__(self) -> None:
        check_recurrence(self.cell, self.dim, self.lags, self.memory_span)
        if self.kernel < 2:
            raise UserError(f"kernel={self.kernel} must be at least 2: it makes the map smaller")

    @property
    def reads_mean(self) -> bool:
        return self.vector == "mean"

    @property
    def convolves(self) -> bool:
        return self.vector == "conv"

    def build(self, name: str) -> "VectorRNN":
        return VectorRNN(self, name=name)


def _same_in_all_cells(key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
    """Initial kernel `[h w c d]` of a convolution of the whole map: features of its sum.

    Places of objects are then one linear function of the vector, wherever they are.
    """
    cell = nn.initializers.he_normal()(key, (1, 1, *shape[2:]), dtype)
    return jnp.broadcast_to(cell, shape)


class VectorRNN(nn.Module):
    """The module of an `RNNHead`."""

    config: RNNHead

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool = False) -> jax.Array:
        """Features `[b t h w c]` -> `[b t d]`, float32."""
        b, t = features.shape[:2]
        if self.config.vector == "mean":
            x = features.mean(axis=(2, 3))  # [b t c]
        else:
            x = features.reshape(b * t, *features.shape[2:])
            number, side = 0, self.config.kernel
            while x.shape[1:3] != (1, 1):
                kernel = (min(side, x.shape[1]), min(side, x.shape[2]))
                whole = number == 0 and kernel == x.shape[1:3]
                init = _same_in_all_cells if whole else nn.initializers.he_normal()
                conv = nn.Conv(
                    self.config.dim,
                    kernel,
                    padding="VALID",
                    kernel_init=init,
                    dtype=x.dtype,
                    name=f"conv{number}",
                )
                x = nn.relu(conv(x))
                x = LayerNorm(name=f"norm{number}")(x) if self.config.norm else x
                number += 1
            x = x.reshape(b, t, -1)
        config = self.config
        cell = FrameRNN(
            config.dim,
            config.cell,
            forget_bias=1.0,
            memory_span=config.memory_span,
            differences=config.differences,
            lags=config.lags,
            name=config.cell,
        )
        one_node = jnp.einsum("btc->tbc", x)[None]  # [n t b c]
        return jnp.einsum("ntbd->btd", cell(one_node)[0]).astype(jnp.float32)
