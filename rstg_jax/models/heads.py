"""Heads: they make the vectors that the classifier reads, one per frame, `[b t d]`."""

import abc
import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rstg_jax.errors import UserError
from rstg_jax.models.clip_pooling import AttentivePool, NormedPool
from rstg_jax.models.region_gcn import RegionGCN
from rstg_jax.models.relations import Relations
from rstg_jax.models.transformer import FrameTransformer
from rstg_jax.rstg.recurrent_cells import Cell, FrameRNN
from rstg_jax.rstg.region_graph import RegionGraph

FinalBlock = Literal["nodes", "vector", "unused"]
# Outputs of the auxiliary head for each class of objects: presence logit, place y x, motion y x.
REGION_OUTPUTS = 5
LONE_OBJECT_OUTPUTS = 3  # logit of being in the pair, motion y x


@dataclasses.dataclass(frozen=True)
class HeadConfig(abc.ABC):
    """Configuration of a head.

    Class attributes:
      final_block: use of a block at the place "final". "nodes": required, the head reads its nodes
        `[b t n d]`; the other heads read the last feature volume `[b t h w c]`. "vector": optional,
        its vector is added to the head's. "unused": not allowed.
    """

    final_block: ClassVar[FinalBlock]

    @property
    def projects_back(self) -> bool:
        """Whether nodes are projected back to the width of the features before they are read."""
        return False

    @abc.abstractmethod
    def build(self, name: str) -> nn.Module:
        """The module, called as `module(x, train=...)`: nodes or features to float32 `[b t d]`.

        A head that reads all frames together returns one vector for all of them, `[b 1 d]`.
        """


@dataclasses.dataclass(frozen=True)
class NodePooling(HeadConfig):
    """To-vec: pools the nodes of the block at the place "final".

    Attributes:
      node_sum: "sum" over nodes (official), or their "mean".
      project_back: project the nodes back to the width of the features first (official).
    """

    final_block: ClassVar[FinalBlock] = "nodes"

    node_sum: Literal["sum", "mean"] = "sum"
    project_back: bool = False

    @property
    def projects_back(self) -> bool:
        return self.project_back

    def build(self, name: str) -> "NodePool":
        return NodePool(self, name=name)


class NodePool(nn.Module):
    """The module of a `NodePooling`; it has no parameters."""

    config: NodePooling

    def __call__(self, nodes: jax.Array, *, train: bool = False) -> jax.Array:
        """Nodes `[b t n d]` -> `[b t d]`, float32."""
        nodes = nodes.astype(jnp.float32)
        return nodes.sum(axis=2) if self.config.node_sum == "sum" else nodes.mean(axis=2)


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
class RNNHead(HeadConfig):
    """The poster's baselines without a graph: one vector per frame, then a recurrent cell.

    Attributes:
      vector: how a map becomes a vector: its "mean" (Mean + LSTM), or 3x3 convolutions until one
        cell is left (Conv + LSTM).
      cell: "lstm", "gru", or one of `rstg_jax.rstg.linear_recurrences`.
      dim: features of the cell, and channels of the convolutions.
    """

    final_block: ClassVar[FinalBlock] = "unused"

    vector: Literal["mean", "conv"] = "mean"
    cell: Cell = "lstm"
    dim: int = 512

    def build(self, name: str) -> "VectorRNN":
        return VectorRNN(self, name=name)


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


@dataclasses.dataclass(frozen=True)
class TransformerHead(HeadConfig):
    """Attention over all frames, without a graph; see `rstg_jax.models.transformer`.

    Attributes:
      scales: of the grids whose cells, side by side, are a frame's token, as of RSTG.
      dim: features of a token, an even number.
      layers: of the encoder.
      num_heads: of the attention; divides `dim`.
      causal: a frame attends to itself and those before only.
    """

    final_block: ClassVar[FinalBlock] = "unused"

    scales: tuple[int, ...] = (1,)
    dim: int = 64
    layers: int = 2
    num_heads: int = 4
    causal: bool = True

    def __post_init__(self) -> None:
        if min(self.dim, self.layers, self.num_heads) < 1:
            raise UserError("TransformerHead needs dim, layers and num_heads of at least 1")
        if self.dim % 2 or self.dim % self.num_heads:
            raise UserError(f"dim={self.dim} must be even, a multiple of num_heads")
        _ = RegionGraph(self.scales)  # checks them

    def build(self, name: str) -> FrameTransformer:
        return FrameTransformer(
            self.scales, self.dim, self.layers, self.num_heads, self.causal, name=name
        )


@dataclasses.dataclass(frozen=True)
class RelationHead(HeadConfig):
    """Multi-scale temporal relations (TRN); see `rstg_jax.models.relations`.

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

    def build(self, name: str) -> Relations:
        return Relations(self.frames, self.dim, self.subsets, self.dropout_rate, name=name)


@dataclasses.dataclass(frozen=True)
class RegionGCNHead(HeadConfig):
    """Graph convolutions on regions, beside the mean of the map; see `rstg_jax.models.region_gcn`.

    Attributes:
      scales: of the grids whose cells are the regions, as of RSTG.
      dim: features of nodes.
      layers: of each of the two branches.
      aligned: whether RoIAlign has pixel centres at halves.
    """

    final_block: ClassVar[FinalBlock] = "unused"

    scales: tuple[int, ...] = (3, 2, 1)
    dim: int = 512
    layers: int = 3
    aligned: bool = False

    def __post_init__(self) -> None:
        if min(self.dim, self.layers) < 1:
            raise UserError("RegionGCNHead needs dim and layers of at least 1")
        _ = RegionGraph(self.scales)  # checks them

    def build(self, name: str) -> RegionGCN:
        return RegionGCN(self.scales, self.dim, self.layers, self.aligned, name=name)


@dataclasses.dataclass(frozen=True)
class NormedPooling(HeadConfig):
    """A layer norm of the mean of the clip (fine-tuned VideoMAE).

    Attributes:
      epsilon: of the norm.
    """

    final_block: ClassVar[FinalBlock] = "vector"

    epsilon: float = 1e-5

    def build(self, name: str) -> NormedPool:
        return NormedPool(self.epsilon, name=name)


@dataclasses.dataclass(frozen=True)
class AttentivePooling(HeadConfig):
    """Self-attention of all pixels of the clip, then attention of one learned query (V-JEPA 2).

    Attributes:
      layers: blocks of self-attention.
      num_heads: of all attention.
      mlp_ratio: features inside the MLPs for each outside.
      epsilon: of the norms.
    """

    final_block: ClassVar[FinalBlock] = "vector"

    layers: int = 3
    num_heads: int = 16
    mlp_ratio: float = 4.0
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        if self.layers < 0 or self.num_heads < 1 or self.mlp_ratio <= 0:
            raise UserError("AttentivePooling needs num_heads of at least 1, mlp_ratio above 0")

    def build(self, name: str) -> AttentivePool:
        return AttentivePool(self.layers, self.num_heads, self.mlp_ratio, self.epsilon, name=name)
