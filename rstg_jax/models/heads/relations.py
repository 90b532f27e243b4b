"""Multi-scale temporal relations (TRN, Zhou et al. 2018).

For each number of frames, from all of the clip down to 2, a small network reads ordered subsets of
so many frames. Its outputs are summed over the subsets, and these sums are concatenated.
"""

import dataclasses
import itertools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rstg_jax.errors import UserError
from rstg_jax.models.heads.base import FinalBlock, HeadConfig


@dataclasses.dataclass(frozen=True)
class RelationHead(HeadConfig):
    """Multi-scale temporal relations (TRN).

    Attributes:
      frames: of the clips.
      dim: features of a frame, and of a relation.
      subsets: number of subsets of each size that a training step draws, alike for the whole batch.
        Evaluation reads all of them and scales their sum to that of so many, which is its mean over
        draws; the released code draws in evaluation too.
      dropout_rate: of the means of the map, in training.
    """

    final_block: ClassVar[FinalBlock] = "unused"

    frames: int = 8
    dim: int = 256
    subsets: int = 3
    dropout_rate: float = 0.8

    def __post_init__(self) -> None:
        if self.frames < 2 or min(self.dim, self.subsets) < 1:
            raise UserError("RelationHead needs frames of at least 2, dim and subsets of 1")
        if not 0 <= self.dropout_rate < 1:
            raise UserError(f"dropout_rate={self.dropout_rate} must be in [0, 1)")

    def build(self, name: str) -> "Relations":
        return Relations(self, name=name)


class Relations(nn.Module):
    """The network behind the feature map."""

    config: RelationHead

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool = False) -> jax.Array:
        """Features `[b t h w c]` -> `[b 1 d]`, float32.

        Raises:
          UserError: the clips have another number of frames.
        """
        config, frames = self.config, features.shape[1]
        if frames != config.frames:
            raise UserError(f"head.frames={config.frames}, but the last map has {frames} frames")
        x = features.astype(jnp.float32).mean(axis=(2, 3))  # [b t c]
        x = nn.Dropout(config.dropout_rate, deterministic=not train)(x)
        init = nn.initializers.normal(1e-3)  # as released
        x = nn.relu(nn.Dense(config.dim, kernel_init=init, name="frame")(x))
        sums = [self.relation(x, size, train) for size in range(frames, 1, -1)]
        return jnp.concatenate(sums, axis=-1)[:, None]

    def relation(self, x: jax.Array, size: int, train: bool) -> jax.Array:
        """Frames `[b t d]` -> the sum over subsets of a size, `[b d]`."""
        config, b = self.config, len(x)
        subsets = np.array(list(itertools.combinations(range(config.frames), size)))  # [n size]
        drawn = min(config.subsets, len(subsets))
        scale = drawn / len(subsets)
        if train and drawn < len(subsets):
            key, scale = self.make_rng("dropout"), 1.0
            chosen = jax.random.permutation(key, jnp.asarray(subsets))[:drawn]
            x = x[:, chosen]  # [b n size d]
        else:
            x = x[:, subsets]
        dense = nn.Dense(config.dim, name=f"relation{size}")
        return scale * nn.relu(dense(x.reshape(b, x.shape[1], -1))).sum(axis=1)
