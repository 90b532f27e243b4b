"""Evaluation protocols: which videos are tested, and in how many views each.

    center    one view: the centred crop of one sampling of frames
    dense     22 views, as the authors: 11 crops over the longer side, as high as the frame
              (256x256; less if data.clip.resize is less), of 2 samplings of frames
    NxM       N crops over the longer side, of the size of training, of M samplings of frames

A model of SyncMNIST sees every video once and whole: it knows no protocol.
"""

import dataclasses
import re

import flax.errors
import jax
import numpy as np

from rstg_jax import data
from rstg_jax.errors import UserError
from rstg_jax.training import checkpoint

CENTER, DENSE = "center", "dense"
DENSE_VIEWS, DENSE_SIDE = (11, 2), 256
_VIEWS = re.compile(r"([1-9]\d*)x([1-9]\d*)")


def with_protocol(config: data.DataConfig, protocol: str | None) -> data.DataConfig:
    """The configuration whose testing follows a protocol; itself if `protocol` is None.

    Raises:
      UserError: there is no such protocol, or none at all for such data.
    """
    if protocol is None:
        return config
    if isinstance(config, data.SyncMNISTConfig):
        raise UserError(f"--protocol={protocol}: a model of SyncMNIST sees videos once and whole")
    match = _VIEWS.fullmatch(protocol)
    if match:
        (spatial, temporal), side = map(int, match.groups()), None
    elif protocol == CENTER:
        (spatial, temporal), side = (1, 1), None
    elif protocol == DENSE:
        (spatial, temporal), side = DENSE_VIEWS, min(DENSE_SIDE, config.clip.resize)
    else:
        raise UserError(f"--protocol={protocol}: choose {CENTER}, {DENSE} or NxM, such as 3x2")
    clip = dataclasses.replace(
        config.clip, spatial_views=spatial, temporal_views=temporal, view_size=side
    )
    return dataclasses.replace(config, clip=clip)


def name(config: data.DataConfig) -> str:
    """Names what a configuration does: "center", "dense", "3x2", "3x2-96"; empty for SyncMNIST."""
    if isinstance(config, data.SyncMNISTConfig):
        return ""
    clip = config.clip
    views, side = (clip.spatial_views, clip.temporal_views), clip.view_size or clip.crop
    if views == DENSE_VIEWS and side == min(DENSE_SIDE, clip.resize):
        return DENSE
    if views == (1, 1) and side == clip.crop:
        return CENTER
    return f"{views[0]}x{views[1]}" + (f"-{side}" if side != clip.crop else "")


def views(config: data.DataConfig) -> int:
    """Clips of one video in testing."""
    return 1 if isinstance(config, data.SyncMNISTConfig) else config.clip.views


def with_split(config: data.DataConfig, split: str | None) -> tuple[data.DataConfig, str, str]:
    """Finds a split by the name that its data set gives it.

    Args:
      config: of the data.
      split: "train", "test", or "validation" of Something-Something; what the run was tested on
        if None.

    Returns:
      The configuration, the split as `data.open_source` calls it, and its own name.

    Raises:
      UserError: there is no such split.
    """
    if isinstance(config, data.SomethingSomethingConfig):
        split = split or config.test_split
        if split == "validation":
            return dataclasses.replace(config, test_split="validation"), "test", split
        if split == "test":
            return dataclasses.replace(config, test_split="test"), "test", split
    split = split or "test"
    if split not in ("train", "test"):
        raise UserError(f"there is no {split} split in these data: choose train or test")
    return config, split, split


def check_fits(loaded: checkpoint.Loaded) -> None:
    """Checks that a model takes clips of the size that its data configuration gives in testing.

    Raises:
      UserError: it does not.
    """
    config, trained = loaded.experiment.data, tuple(loaded.meta["video_shape"])
    if isinstance(config, data.SyncMNISTConfig):
        return
    side = config.clip.view_size or config.clip.crop
    shape = (config.clip.frames, side, side, 3)
    if shape == trained:
        return
    try:
        jax.eval_shape(
            lambda variables, video: loaded.module.apply(variables, video, train=False),
            loaded.abstract.variables,
            jax.ShapeDtypeStruct((1, *shape), np.uint8),
        )
    except (flax.errors.FlaxError, TypeError, ValueError) as error:
        raise UserError(
            f"the model was trained on clips of {_text(trained)} and cannot take the "
            f"{_text(shape)} of the protocol {name(config)}: choose {CENTER} or NxM"
        ) from error


def _text(shape: tuple[int, ...]) -> str:
    """A clip's shape for people."""
    return f"{shape[0]} frames of {shape[1]}x{shape[2]}"
