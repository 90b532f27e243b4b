"""Multi-scale temporal relations (TRN, Zhou et al. 2018).

For each number of frames, from all of the clip down to 2, a small network reads ordered subsets of
so many frames. Its outputs are summed over the subsets, and these sums are concatenated.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rstg_jax.errors import UserError


class Relations(nn.Module):
    """The network behind the feature map.

    Attributes:
      frames: of the clips.
      dim: features of a frame, and of a relation.
      subsets: number of subsets of each size that a training step draws; evaluation reads all.
      dropout_rate: of the means of the map, in training.
    """

    frames: int
    dim: int
    subsets: int
    dropout_rate: float

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool = False) -> jax.Array:
        """Features `[b t h w c]` -> `[b 1 d]`, float32.

        Raises:
          UserError: the clips have another number of frames.
        """
        frames = features.shape[1]
        if frames != self.frames:
            raise UserError(f"head.frames={self.frames}, but the last map has {frames} frames")
        x = features.astype(jnp.float32).mean(axis=(2, 3))  # [b t c]
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        init = nn.initializers.normal(1e-3)  # as released
        x = nn.relu(nn.Dense(self.dim, kernel_init=init, name="frame")(x))
        sums = [self.relation(x, size, train) for size in range(frames, 1, -1)]
        return jnp.concatenate(sums, axis=-1)[:, None]

    def relation(self, x: jax.Array, size: int, train: bool) -> jax.Array:
        """Frames `[b t d]` -> the sum over subsets of a size, `[b d]`."""
        b = len(x)
        subsets = np.array(list(itertools.combinations(range(self.frames), size)))  # [n size]
        drawn = min(self.subsets, len(subsets))
        scale = drawn / len(subsets)
        if train and drawn < len(subsets):
            key, scale = self.make_rng("dropout"), 1.0
            chosen = jax.random.permutation(key, jnp.asarray(subsets))[:drawn]
            x = x[:, chosen]  # [b n size d]
        else:
            x = x[:, subsets]
        dense = nn.Dense(self.dim, name=f"relation{size}")
        return scale * nn.relu(dense(x.reshape(b, x.shape[1], -1))).sum(axis=1)
