"""Evaluation protocols: how many clips of each video are tested.

    center    one view: the centred crop of one sampling of frames
    dense     22 views, as the authors: 11 crops over the longer side, as high as the frame
              (256x256; less if data.clip.resize is less), of 2 samplings of frames
    tsm       6 views, as TSM's authors in their accurate setting, for data.clip.sampling=segments:
              3 crops of 256x256 over the longer side, of the centres of the segments and of their
              starts
    tsn       10 views, as the authors of TSN and TRN: crops of the size of training in the four
              corners and the centre, each also mirrored (`GroupOverSample` of
              yjxiong/tsn-pytorch and zhoubolei/TRN-pytorch, `TenCrop` of mmaction2). The clip of
              their tests has the centres of 25 segments for TSN (data.clip.frames=25), for TRN as
              many frames as in training: data.clip.sampling=segments
    NxM       N crops over the longer side, of the size of training, of M samplings of frames
    NxM-SIDE  the same with crops of that side
    5xM-corners, 10xM-corners
              crops as those of "tsn", without or with mirrored ones; also 10xM-SIDE-corners
    NxM-starts
              for two samplings at the centres of the segments and at their starts, as "tsm"

A mirrored view speaks for the labels with left and right swapped in their names, see
`rstg_jax.data.video.label_flip.logit_places`. "tsn" is 10x1-corners.

Data sets of whole videos, such as SyncMNIST, have no protocols. A data set resolves the names, see
`rstg_jax.data.dataset.DataConfig.with_protocol`.
"""

import flax.errors
import jax

from rstg_jax.errors import UserError
from rstg_jax.training import steps, trained_model


def check_fits(model: trained_model.TrainedModel) -> None:
    """Checks that a model takes clips of the size that its data configuration gives in testing.

    Raises:
      UserError: It does not.
    """
    trained, shape = tuple(model.meta["video_shape"]), model.data.test_clip_shape
    if shape == trained:
        return
    clips = steps.abstract_inputs(model.data, shape)
    try:
        jax.eval_shape(
            lambda variables, clips: model.module.apply(variables, **clips, train=False),
            model.abstract,
            clips,
        )
    except (flax.errors.FlaxError, TypeError, ValueError) as error:
        raise UserError(
            f"the model was trained on clips of {_text(trained)} and cannot take the "
            f"{_text(shape)} of the protocol {model.data.protocol}: choose center or NxM"
        ) from error


def _text(shape: tuple[int, ...]) -> str:
    """Describes the shape of a clip."""
    return f"{shape[0]} frames of {shape[1]}x{shape[2]}"
