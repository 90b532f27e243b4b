"""Transformer blocks on tokens, with the norm before attention and before the MLP."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rstg_jax.errors import UserError
from rstg_jax.layers.array_types import Array, Float
from rstg_jax.layers.linear import kernel_init, linear
from rstg_jax.layers.norms import LayerNorm


class Rotary(NamedTuple):
    """Angles by which queries and keys are turned, pair by pair of their features.

    Attributes:
      cos: `[n d]`, of all tokens and the features of a head.
      sin: the same.
    """

    cos: np.ndarray
    sin: np.ndarray


class Linear(nn.Module):
    """A linear layer.

    Attributes:
      features: of the result.
      bias: whether there is a bias.
    """

    features: int
    bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch f"]:
        kernel = self.param("kernel", kernel_init, (x.shape[-1], self.features), jnp.float32)
        kernel = kernel.astype(x.dtype)
        if not self.bias:
            return linear(x, kernel)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return linear(x, kernel, bias.astype(x.dtype))


class Attention(nn.Module):
    """Attention of several heads; softmax in float32.

    Attributes:
      num_heads: their number, which divides the width.
      key_bias: whether keys have a bias.
      project_out: whether a linear layer mixes the heads at the end.
      logit_cap: if not 0, logits are squeezed between minus and plus this number by tanh.
      causal: whether a token attends to itself and those before only; not with `logit_cap`.
    """

    num_heads: int
    key_bias: bool = True
    project_out: bool = True
    logit_cap: float = 0.0
    causal: bool = False

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "b n c"],
        context: Float[Array, "b m c"],
        rotary: Rotary | None = None,
    ) -> Float[Array, "b n c"]:
        """Mixes the tokens of `context` for each of `queries`.

        Args:
          queries: tokens.
          context: tokens, which may be the same.
          rotary: of both, if they are the same.
        """
        if self.logit_cap and self.causal:
            raise UserError("attention with logit_cap cannot be causal")
        width = queries.shape[-1]

        def heads(x: Array, name: str, bias: bool = True) -> Array:
            y = Linear(width, bias, name=name)(x)
            return y.reshape(*y.shape[:2], self.num_heads, width // self.num_heads)

        q, k = heads(queries, "query"), heads(context, "key", self.key_bias)
        if rotary is not None:
            q, k = rotated(q, rotary), rotated(k, rotary)
        v = heads(context, "value")
        if self.logit_cap:
            x = capped_attention(q, k, v, self.logit_cap)
        else:
            x = jax.nn.dot_product_attention(q, k, v, is_causal=self.causal)
        x = x.reshape(queries.shape)
        return Linear(width, name="out")(x) if self.project_out else x


class MLP(nn.Module):
    """Two linear layers with an exact GELU between them.

    Attributes:
      dim: features between them.
    """

    dim: int

    @nn.compact
    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        y = jax.nn.gelu(Linear(self.dim, name="fc1")(x), approximate=False)
        return Linear(x.shape[-1], name="fc2")(y)


class Block(nn.Module):
    """Self-attention and an MLP, each behind a norm and around a shortcut.

    Attributes:
      num_heads: of the attention.
      mlp_dim: features inside the MLP.
      epsilon: of the norms.
      key_bias: see `Attention`.
      logit_cap: likewise.
      causal: likewise.
    """

    num_heads: int
    mlp_dim: int
    epsilon: float
    key_bias: bool = True
    logit_cap: float = 0.0
    causal: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n c"], rotary: Rotary | None = None
    ) -> Float[Array, "b n c"]:
        y = LayerNorm(epsilon=self.epsilon, name="norm1")(x)
        attention = Attention(
            self.num_heads,
            self.key_bias,
            logit_cap=self.logit_cap,
            causal=self.causal,
            name="attention",
        )
        x = x + attention(y, y, rotary)
        y = LayerNorm(epsilon=self.epsilon, name="norm2")(x)
        return x + MLP(self.mlp_dim, name="mlp")(y)


class CrossBlock(nn.Module):
    """The same for queries that attend to other tokens, which are normed in their place.

    Attributes: see `Block`.
    """

    num_heads: int
    mlp_dim: int
    epsilon: float

    @nn.compact
    def __call__(
        self, queries: Float[Array, "b n c"], context: Float[Array, "b m c"]
    ) -> Float[Array, "b n c"]:
        context = LayerNorm(epsilon=self.epsilon, name="norm1")(context)
        attention = Attention(self.num_heads, project_out=False, name="attention")
        x = queries + attention(queries, context)
        y = LayerNorm(epsilon=self.epsilon, name="norm2")(x)
        return x + MLP(self.mlp_dim, name="mlp")(y)


def capped_attention(
    q: Float[Array, "b n h d"], k: Float[Array, "b m h d"], v: Float[Array, "b m h d"], cap: float
) -> Float[Array, "b n h d"]:
    """Attention with logits between -cap and cap, softmax in float32."""
    logits = jnp.einsum("bnhd,bmhd->bhnm", q, k).astype(jnp.float32) * q.shape[-1] ** -0.5
    weights = jax.nn.softmax(cap * jnp.tanh(logits / cap)).astype(v.dtype)
    return jnp.einsum("bhnm,bmhd->bnhd", weights, v)


def rotated(x: Float[Array, "b n h d"], rotary: Rotary) -> Float[Array, "b n h d"]:
    """Turns every pair of neighbouring features, in float32."""
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    across = jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(x.shape)
    cos, sin = (jnp.asarray(table, jnp.float32)[:, None] for table in rotary)
    return (x * cos + across * sin).astype(x.dtype)


def sine_table(tokens: int, width: int) -> np.ndarray:
    """Sines and cosines of a token's number, float32 `[tokens width]` (Vaswani et al. 2017)."""
    number = np.arange(tokens)[:, None]
    angles = number / 10000 ** (2 * (np.arange(width) // 2) / width)
    return np.where(np.arange(width) % 2, np.cos(angles), np.sin(angles)).astype(np.float32)


def rotary_table(grid: tuple[int, int, int], head_dim: int) -> Rotary:
    """Angles of V-JEPA 2 for tokens on a grid of frames, rows and columns, in that order.

    Equal even parts of a head's features are turned by frame, by row and by column; the rest is
    not. Feature i of a part has the frequency of i modulo half the part, so that the two features
    of a pair differ in theirs: that is how the released weights were trained.
    """
    part = head_dim // 3 // 2 * 2
    half = part // 2
    frequencies = np.tile(10000.0 ** (-np.arange(half) / half), 2)
    places = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), axis=-1).reshape(-1, 3)
    angles = (places[:, :, None] * frequencies).reshape(len(places), -1)
    angles = np.pad(angles, ((0, 0), (0, head_dim - 3 * part)))
    return Rotary(np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))
