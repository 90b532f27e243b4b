"""Normalisation of pixel values by fields `input_mean` and `input_scale` of backbones."""

from typing import Any

import jax
import jax.numpy as jnp

from rstg_jax.errors import UserError

# Of the authors' release, and of networks that are trained on ImageNet, in red, green and blue.
OFFICIAL_MEAN, OFFICIAL_SCALE = (114.75,) * 3, (57.375,) * 3
IMAGENET_MEAN, IMAGENET_SCALE = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def check_scale(*input_scale: float) -> None:
    """Raises `UserError` if pixels would be divided by 0."""
    if 0 in input_scale:
        raise UserError("input_scale must not be 0")


def normalise(video: jax.Array, config: Any, dtype: jnp.dtype) -> jax.Array:
    """Scales pixels 0..255 `[b t h w c]` by `input_mean` and `input_scale` of a backbone config.

    In float32 also for a bfloat16 result: bfloat16 would round a mean of 114.75 to 115.
    """
    mean, scale = (jnp.asarray(x, jnp.float32) for x in (config.input_mean, config.input_scale))
    if mean.ndim and mean.size not in (1, video.shape[-1]):
        raise UserError(f"input_mean has {mean.size} channels, the video {video.shape[-1]}")
    return ((video.astype(jnp.float32) - mean) / scale).astype(dtype)
