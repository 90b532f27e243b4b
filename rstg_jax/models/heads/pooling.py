"""Heads that are means of nodes or of pixels, or a token of the whole clip."""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rstg_jax.errors import UserError
from rstg_jax.layers.norms import LayerNorm
from rstg_jax.models.heads.base import FinalBlock, HeadConfig


@dataclasses.dataclass(frozen=True)
class NodePooling(HeadConfig):
    """To-vec: pools the nodes of the block at the place "final".

    Attributes:
      node_sum: "sum" over nodes (official), their "mean", or by "attention" a mean with weights: a
        softmax over the nodes of one linear score of each, all alike at first. Where few nodes know
        the answer, such as that of the whole frame, it is learned sooner. Not in the paper.
      project_back: project the nodes back to the width of the features first (official).
    """

    final_block: ClassVar[FinalBlock] = "nodes"

    node_sum: Literal["sum", "mean", "attention"] = "sum"
    project_back: bool = False

    @property
    def projects_back(self) -> bool:
        return self.project_back

    def build(self, name: str) -> "NodePool":
        return NodePool(self, name=name)


class NodePool(nn.Module):
    """The module of a `NodePooling`; it has parameters for attention only."""

    config: NodePooling

    @nn.compact
    def __call__(self, nodes: jax.Array, *, train: bool = False) -> jax.Array:
        """Nodes `[b t n d]` -> `[b t d]`, float32."""
        nodes = nodes.astype(jnp.float32)
        if self.config.node_sum == "sum":
            return nodes.sum(axis=2)
        if self.config.node_sum == "mean":
            return nodes.mean(axis=2)
        # No bias: it would change all scores alike.
        score = nn.Dense(1, use_bias=False, kernel_init=nn.initializers.zeros, name="score")
        weights = nn.softmax(score(nodes)[..., 0], axis=2)
        return jnp.einsum("btn,btnd->btd", weights, nodes)


@dataclasses.dataclass(frozen=True)
class GlobalPooling(HeadConfig):
    """The mean of the last feature map, for C2D, I3D and networks with RSTG inside (to-map).

    Attributes:
      pool_window: official models average windows of this many pixels a side (14, the training
        size), then the windows; on larger maps pixels near the border count less. 0 takes all
        pixels alike.
    """

    final_block: ClassVar[FinalBlock] = "vector"

    pool_window: int = 0

    def build(self, name: str) -> "GlobalPool":
        return GlobalPool(self, name=name)


class GlobalPool(nn.Module):
    """The module of a `GlobalPooling`; it has no parameters."""

    config: GlobalPooling

    def __call__(self, features: jax.Array, *, train: bool = False) -> jax.Array:
        """Features `[b t h w c]` -> `[b t c]`, float32.

        Raises:
          UserError: the map is smaller than the window.
        """
        features, window = features.astype(jnp.float32), self.config.pool_window
        if not window:
            return features.mean(axis=(2, 3))
        if min(features.shape[2:4]) < window:
            raise UserError(
                f"pool_window={window} is larger than the feature map of "
                f"{features.shape[2]}x{features.shape[3]}: give larger frames, or 0"
            )
        rows, columns = (window_weights(size, window) for size in features.shape[2:4])
        return jnp.einsum("bthwc,h,w->btc", features, rows, columns)


def window_weights(size: int, window: int) -> np.ndarray:
    """Share of each of `size` rows in the mean of all windows, float32 `[size]`; they sum to 1."""
    count = np.convolve(np.ones(size - window + 1), np.ones(window))
    return (count / count.sum()).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class ProjectedPooling(HeadConfig):
    """The mean of the clip, a linear layer without bias and ReLU (X3D).

    Attributes:
      dim: features of the layer.
    """

    final_block: ClassVar[FinalBlock] = "unused"

    dim: int = 2048

    def build(self, name: str) -> "ProjectedPool":
        return ProjectedPool(self, name=name)


class ProjectedPool(nn.Module):
    """The module of a `ProjectedPooling`."""

    config: ProjectedPooling

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool = False) -> jax.Array:
        """Features `[b t h w c]` -> `[b 1 d]`, float32."""
        x = features.astype(jnp.float32).mean(axis=(1, 2, 3))
        return nn.relu(nn.Dense(self.config.dim, use_bias=False, name="project")(x))[:, None]


@dataclasses.dataclass(frozen=True)
class NormedPooling(HeadConfig):
    """A layer norm of the mean of the clip (fine-tuned VideoMAE).

    Attributes:
      epsilon: of the norm.
    """

    final_block: ClassVar[FinalBlock] = "vector"

    epsilon: float = 1e-5

    def build(self, name: str) -> "NormedPool":
        return NormedPool(self, name=name)


class NormedPool(nn.Module):
    """The module of a `NormedPooling`."""

    config: NormedPooling

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool = False) -> jax.Array:
        """Features `[b t h w c]` -> `[b 1 c]`, float32."""
        mean = features.astype(jnp.float32).mean(axis=(1, 2, 3))
        return LayerNorm(epsilon=self.config.epsilon, name="norm")(mean)[:, None]


@dataclasses.dataclass(frozen=True)
class ClassToken(HeadConfig):
    """The token of the whole clip, of backbones that have one (MViTv2)."""

    final_block: ClassVar[FinalBlock] = "vector"

    @property
    def reads_class_token(self) -> bool:
        return True

    def build(self, name: str) -> "TokenVector":
        return TokenVector(name=name)


class TokenVector(nn.Module):
    """The module of a `ClassToken`; it has no parameters."""

    def __call__(self, token: jax.Array, *, train: bool = False) -> jax.Array:
        """`[b 1 1 1 c]` -> `[b 1 c]`, float32."""
        return token[:, :, 0, 0].astype(jnp.float32)
