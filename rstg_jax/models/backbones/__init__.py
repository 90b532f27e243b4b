"""Backbones: networks that turn videos into feature volumes."""

from rstg_jax.models.backbones.base import BackboneConfig
from rstg_jax.models.backbones.coordinates import CoordinatesConfig
from rstg_jax.models.backbones.eco import ECOConfig
from rstg_jax.models.backbones.identity import IdentityConfig
from rstg_jax.models.backbones.inception import InceptionConfig
from rstg_jax.models.backbones.mvit import MViTConfig
from rstg_jax.models.backbones.resnet3d import ResNet3DConfig
from rstg_jax.models.backbones.simple_cnn import SimpleCNNConfig
from rstg_jax.models.backbones.slowfast import SlowFastConfig
from rstg_jax.models.backbones.videoprism import VideoPrismConfig
from rstg_jax.models.backbones.vit import ViTConfig
from rstg_jax.models.backbones.x3d import X3DConfig

__all__ = [
    "BackboneConfig",
    "CoordinatesConfig",
    "ECOConfig",
    "IdentityConfig",
    "InceptionConfig",
    "MViTConfig",
    "ResNet3DConfig",
    "SimpleCNNConfig",
    "SlowFastConfig",
    "ViTConfig",
    "VideoPrismConfig",
    "X3DConfig",
]
