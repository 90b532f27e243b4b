"""Heads: they make the vectors that the classifier reads, one per frame, `[b t d]`."""

from rstg_jax.models.heads.attentive import AttentivePooling
from rstg_jax.models.heads.base import HeadConfig
from rstg_jax.models.heads.pooling import (
    ClassToken,
    GlobalPooling,
    NodePooling,
    NormedPooling,
    ProjectedPooling,
)
from rstg_jax.models.heads.recurrent import RNNHead
from rstg_jax.models.heads.region_gcn import RegionGCNHead
from rstg_jax.models.heads.relations import RelationHead
from rstg_jax.models.heads.resnet3d import ResNet3DHead
from rstg_jax.models.heads.transformer import TransformerHead

__all__ = [
    "AttentivePooling",
    "ClassToken",
    "GlobalPooling",
    "HeadConfig",
    "NodePooling",
    "NormedPooling",
    "ProjectedPooling",
    "RNNHead",
    "RegionGCNHead",
    "RelationHead",
    "ResNet3DHead",
    "TransformerHead",
]
