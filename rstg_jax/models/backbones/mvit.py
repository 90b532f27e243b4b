"""MViTv2: a transformer whose attention pools, from many tokens of few features to the opposite.

    stage  blocks of S  width  heads  keys and values  -> of 16 frames of 224x224
    embed                  96         convolution      8x56x56
    0                1     96      1  every 8th        8x56x56
    1                2    192      2  every 4th        8x28x28
    2               11    384      4  every 2nd        8x14x14
    3                2    768      8  all              8x7x7

Queries, keys and values are pooled by depthwise convolutions over rows and columns, in the first
block of a stage queries too, with stride 2. A token of the whole clip, to which nothing is pooled,
goes along. Attention knows the distance of two tokens in rows, columns and frames by three tables.

Source: torchvision's `mvit_v2_s` (Li et al. 2022, "MViTv2"). Not here: it leaves out branches of
blocks at random in training (stochastic depth). Initial weights of linear layers are our choice.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rstg_jax.errors import UserError
from rstg_jax.layers.conv import Conv3D, Depthwise, max_pool3d
from rstg_jax.layers.norms import LayerNorm
from rstg_jax.layers.transformer import MLP, Linear
from rstg_jax.models.backbones.base import CLASS_TOKEN, After, Backbone, BackboneConfig
from rstg_jax.models.backbones.pixels import (
    OFFICIAL_MEAN,
    OFFICIAL_SCALE,
    check_scale,
    normalise,
)

EMBED_KERNEL, EMBED_STRIDE = (3, 7, 7), (2, 4, 4)
MLP_RATIO = 4
TABLE_INIT = nn.initializers.truncated_normal(0.02)  # as released

Grid = tuple[int, int, int]  # frames, rows, columns


class BlockSize(NamedTuple):
    """Sizes of a block.

    Attributes:
      width: features of its tokens.
      num_heads: of its attention.
      stride: of queries over rows and columns.
      kv_stride: of keys and values, counted from the tokens that it gets.
      frames: entries of the table of distances in frames.
      side: entries of the tables of distances in rows and in columns.
    """

    width: int
    num_heads: int
    stride: int
    kv_stride: int
    frames: int
    side: int


@dataclasses.dataclass(frozen=True)
class MViTConfig(BackboneConfig):
    """MViTv2; the default is S.

    Attributes:
      depths: blocks of each stage; those of B are (2, 3, 16, 3).
      width: features of a token of the first stage; each stage has twice those of the one before.
      num_heads: likewise of its attention.
      kv_stride: stride of keys and values in the first stage; each stage has half of it.
      clip: frames and side of the clips that the tables of distances are for. For other clips they
        are interpolated.
      epsilon: of all norms.
      input_mean: subtracted from pixel values 0..255.
      input_scale: divides them after that.
    """

    depths: tuple[int, ...] = (1, 2, 11, 2)
    width: int = 96
    num_heads: int = 1
    kv_stride: int = 8
    clip: tuple[int, int] = (16, 224)
    epsilon: float = 1e-6
    input_mean: tuple[float, ...] = OFFICIAL_MEAN
    input_scale: tuple[float, ...] = OFFICIAL_SCALE

    def __post_init__(self) -> None:
        if min(*self.depths, self.width, self.num_heads, self.kv_stride) < 1:
            raise UserError("depths, width, num_heads and kv_stride must be at least 1")
        if self.width % self.num_heads:
            raise UserError(f"width={self.width} is no multiple of num_heads={self.num_heads}")
        if self.clip[0] < EMBED_STRIDE[0] or min(size.side for size in self.blocks) < 1:
            raise UserError(f"clip={self.clip} is too small for {len(self.depths)} stages")
        check_scale(*self.input_scale)

    @property
    def places(self) -> tuple[str, ...]:
        """Names of the places behind each block, such as "block13", in order."""
        return tuple(f"block{number}" for number in range(sum(self.depths)))

    @property
    def class_token(self) -> bool:
        return True

    @property
    def blocks(self) -> tuple[BlockSize, ...]:
        """Sizes of all blocks."""
        frames, side = (size // stride for size, stride in zip(self.clip, (2, 4), strict=True))
        found = []
        for stage, depth in enumerate(self.depths):
            for number in range(depth):
                stride = 2 if stage and not number else 1
                kv_stride = max(self.kv_stride >> stage, 1)
                most = max(side // stride, side // kv_stride)
                found.append(
                    BlockSize(
                        width=self.width << stage,
                        num_heads=self.num_heads << stage,
                        stride=stride,
                        kv_stride=kv_stride,
                        frames=2 * frames - 1,
                        side=2 * most - 1,
                    )
                )
                side //= stride
        return tuple(found)

    def build(self, dtype: jnp.dtype, name: str) -> "MViT":
        return MViT(self, dtype, name=name)


class MViT(Backbone):
    """The network of an `MViTConfig`.

    Attributes:
      config: see there.
    """

    config: MViTConfig

    def features(self, video: jax.Array, train: bool, after: After) -> jax.Array:
        """`[b t h w c]` pixels 0..255 -> features `[b t/2 h' w' c']`, normed, without the token."""
        del train
        config = self.config
        x = normalise(video, config, self.dtype)
        x = Conv3D(config.width, EMBED_KERNEL, EMBED_STRIDE, bias=True, name="embed")(x)
        b, *grid, width = x.shape
        shape: Grid = (grid[0], grid[1], grid[2])
        token = self.param("class_token", TABLE_INIT, (width,), jnp.float32).astype(x.dtype)
        x = jnp.concatenate(
            [jnp.broadcast_to(token, (b, 1, width)), x.reshape(b, -1, width)], axis=1
        )
        for place, size in zip(config.places, config.blocks, strict=True):
            x, shape = PoolingBlock(size, config.epsilon, name=place)(x, shape)
            if place in after:
                maps = after[place](x[:, 1:].reshape(b, *shape, -1))
                x = jnp.concatenate([x[:, :1], maps.reshape(b, -1, x.shape[-1])], axis=1)
        x = LayerNorm(epsilon=config.epsilon, name="norm")(x)
        if CLASS_TOKEN in after:
            after[CLASS_TOKEN](x[:, 0].reshape(b, 1, 1, 1, -1))
        return x[:, 1:].reshape(b, *shape, -1)


class PoolingBlock(nn.Module):
    """Pooling attention and an MLP, each behind a norm and around a shortcut.

    Attributes:
      size: see `BlockSize`.
      epsilon: of the norms.
    """

    size: BlockSize
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array, grid: Grid) -> tuple[jax.Array, Grid]:
        """Tokens `[b 1+t*h*w c]`, the first of the whole clip -> the same on the next grid."""
        size = self.size
        y = LayerNorm(epsilon=self.epsilon, name="norm1")(x)
        attention = PoolingAttention(size, self.epsilon, name="attention")
        attended, pooled = attention(y, grid)
        if x.shape[-1] != size.width:
            x = Linear(size.width, name="project")(y)
        if size.stride > 1:
            maps = x[:, 1:].reshape(len(x), *grid, size.width)
            stride = (1, size.stride, size.stride)
            maps = max_pool3d(maps, (1, 3, 3), stride, ((0, 0), (1, 1), (1, 1)))
            x = jnp.concatenate([x[:, :1], maps.reshape(len(x), -1, size.width)], axis=1)
        x = x + attended
        y = LayerNorm(epsilon=self.epsilon, name="norm2")(x)
        return x + MLP(MLP_RATIO * size.width, name="mlp")(y), pooled


class PoolingAttention(nn.Module):
    """Attention of pooled queries to pooled keys; queries are added to what they receive.

    Attributes: see `PoolingBlock`.
    """

    size: BlockSize
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array, grid: Grid) -> tuple[jax.Array, Grid]:
        """Tokens `[b 1+t*h*w c]` -> tokens `[b 1+t*h'*w' width]`, and their grid."""
        size = self.size
        b, n, _ = x.shape
        qkv = Linear(3 * size.width, name="qkv")(x).reshape(b, n, 3, size.num_heads, -1)
        q, q_grid = self.pooled("q", qkv[:, :, 0], grid, size.stride)
        k, k_grid = self.pooled("k", qkv[:, :, 1], grid, size.kv_stride)
        v, _ = self.pooled("v", qkv[:, :, 2], grid, size.kv_stride)
        logits = jnp.einsum("bnhd,bmhd->bhnm", q * q.shape[-1] ** -0.5, k).astype(jnp.float32)
        logits = logits.at[:, :, 1:, 1:].add(self.distance_logits(q[:, 1:], q_grid, k_grid))
        weights = jax.nn.softmax(logits).astype(v.dtype)
        y = jnp.einsum("bhnm,bmhd->bnhd", weights, v)
        y = y.at[:, 1:].add(q[:, 1:])
        return Linear(size.width, name="out")(y.reshape(b, -1, size.width)), q_grid

    def pooled(self, name: str, x: jax.Array, grid: Grid, stride: int) -> tuple[jax.Array, Grid]:
        """Pools `[b n h d]`, each head alike but the first token not, and norms; its grid."""
        b, _, heads, d = x.shape
        maps = jnp.swapaxes(x[:, 1:], 1, 2).reshape(b * heads, *grid, d)
        maps = Depthwise((3, 3, 3), (1, stride, stride), name=f"pool_{name}")(maps)
        _, t, height, width, _ = maps.shape
        tokens = jnp.swapaxes(maps.reshape(b, heads, -1, d), 1, 2)
        x = jnp.concatenate([x[:, :1], tokens], axis=1)
        return LayerNorm(epsilon=self.epsilon, name=f"norm_{name}")(x), (t, height, width)

    def distance_logits(self, q: jax.Array, q_grid: Grid, k_grid: Grid) -> jax.Array:
        """Products of queries `[b n h d]` with the entries of their distances: `[b h n m]`."""
        b, n, heads, d = q.shape
        q = q.reshape(b, *q_grid, heads, d)
        entries = [
            entries_of(
                self.param(name, TABLE_INIT, (length, d), jnp.float32), queries, keys
            ).astype(q.dtype)
            for name, length, queries, keys in zip(
                ("frames", "rows", "columns"),
                (self.size.frames, self.size.side, self.size.side),
                q_grid,
                k_grid,
                strict=True,
            )
        ]
        frames = jnp.einsum("btyxhd,tkd->bhtyxk", q, entries[0])[..., None, None]
        rows = jnp.einsum("btyxhd,ykd->bhtyxk", q, entries[1])[..., None, :, None]
        columns = jnp.einsum("btyxhd,xkd->bhtyxk", q, entries[2])[..., None, None, :]
        return (frames + rows + columns).astype(jnp.float32).reshape(b, heads, n, -1)


def entries_of(table: jax.Array, queries: int, keys: int) -> jax.Array:
    """Entries of a table for the distances along an axis of queries from keys.

    Args:
      table: `[length d]`; interpolated if there are more or fewer distances.
      queries: number of places of queries along the axis.
      keys: likewise of keys.

    Returns:
      `[queries keys d]`.
    """
    wanted = 2 * max(queries, keys) - 1
    if len(table) != wanted:
        shape = (wanted, table.shape[1])
        table = jax.image.resize(table, shape, "linear", antialias=False)
    # In float32 and truncated, as in the source.
    q_step, k_step = (np.float32(max(a / b, 1.0)) for a, b in ((keys, queries), (queries, keys)))
    q_places = np.arange(queries, dtype=np.float32) * q_step
    k_places = (np.arange(keys, dtype=np.float32) + np.float32(1 - keys)) * k_step
    return table[(q_places[:, None] - k_places).astype(int)]
