"""Clips: a fixed number of frames of a fixed size, cut from videos of any length and size."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from rstg_jax import limits
from rstg_jax.data.video import crops, decode
from rstg_jax.data.video.frame_sampling import Rule, Views, train_frames, view_frames
from rstg_jax.errors import UserError

# Random numbers of a training example: these, then one per frame.
_FLIP, _BRIGHTNESS, _BOX, _TIME = 0, 1, slice(2, 5), 5
CORNERS = 5  # with the centre


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """Which frames and which part of them; the defaults are the official ones.

    Attributes:
      frames: Frames of a clip.
      sampling: Which frames: see `rstg_jax.data.video.frame_sampling`.
      stride: Distance of frames, for the rule "stride".
      resize: Shorter side of a frame, in pixels, before the crop.
      crop: Side of the square that is cut out: at random in training, centred in testing.
      crop_scales: If not empty, training crops have sides of these fractions of the shorter side,
        such as 1, 0.875, 0.75, 0.66, and are resampled to `crop`.
      brightness: Largest change of brightness in training, of the range 0..1; the same for all
        frames of a clip.
      flip: Mirror half of the training clips, with left and right swapped in the label's name, but
        none whose mirrored name is no label (see `rstg_jax.data.video.label_flip`).
      spatial_views: Crops of a video in testing.
      crop_places: Where they are: "even", over the longer side, or "corners", which are five with
        the centre, or ten: each also mirrored, see `rstg_jax.data.video.label_flip.logit_places`.
      temporal_views: Samplings of a video in testing.
      view_places: Where they are: "even", or "starts" for two samplings by the rule "segments", at
        the centres and the starts of the segments.
      view_size: Side of the crops in testing; `crop` if None. The official dense evaluation is
        spatial_views=11, temporal_views=2, view_size=256.
    """

    frames: int = 32
    sampling: Rule = "linspace"
    stride: int = 2
    resize: int = 256
    crop: int = 224
    crop_scales: tuple[float, ...] = ()
    brightness: float = 0.1
    flip: bool = False
    spatial_views: int = 1
    crop_places: Literal["even", "corners"] = "even"
    temporal_views: int = 1
    view_places: Views = "even"
    view_size: int | None = None

    def __post_init__(self) -> None:
        for key in ("frames", "stride", "resize", "crop", "spatial_views", "temporal_views"):
            if getattr(self, key) < 1:
                raise UserError(f"{key}={getattr(self, key)} must be at least 1")
        if self.view_size is not None and self.view_size < 1:
            raise UserError(f"view_size={self.view_size} must be at least 1 (or none)")
        for key in ("crop", "view_size"):
            if (getattr(self, key) or 1) > self.resize:
                raise UserError(f"{key}={getattr(self, key)} is larger than resize={self.resize}")
        two_of_segments = (self.sampling, self.temporal_views) == ("segments", 2)
        if self.view_places == "starts" and not two_of_segments:
            raise UserError("view_places=starts needs sampling=segments and temporal_views=2")
        if self.crop_places == "corners" and self.spatial_views not in (CORNERS, 2 * CORNERS):
            raise UserError("crop_places=corners needs spatial_views=5, or 10 with mirrored ones")
        if any(not 0 < scale <= 1 for scale in self.crop_scales):
            raise UserError(f"crop_scales={self.crop_scales} must be in (0, 1]")
        if not 0 <= self.brightness <= 1:
            raise UserError(f"brightness={self.brightness} must be in [0, 1]")

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """Shape of one training clip, `(t, h, w, c)`."""
        return (self.frames, self.crop, self.crop, 3)

    @property
    def test_size(self) -> int:
        """Side of the crops in testing."""
        return self.view_size or self.crop

    @property
    def views(self) -> int:
        """Clips of one video in testing, whose logits are to be averaged."""
        return self.spatial_views * self.temporal_views

    @property
    def mirrored_views(self) -> list[bool]:
        """Which of the views are mirrored; before each of them is the same one as it is."""
        ten = self.crop_places == "corners" and self.spatial_views == 2 * CORNERS
        return [ten and view % 2 == 1 for view in range(self.views)]

    @property
    def num_draws(self) -> int:
        """Random numbers of a training example."""
        return _TIME + self.frames

    def mirrors(self, draws: np.ndarray) -> bool:
        """Whether a training example with these draws, [num_draws] in [0, 1), is mirrored."""
        return self.flip and bool(draws[_FLIP] < 0.5)


class Place(NamedTuple):
    """Where a clip is in its video.

    Attributes:
      frames: Its frames, int64 `[t]`.
      length: Number of frames of the video.
      part: Left, top, right and bottom of its part of the frames, in pixels of the video.
      size: Width and height of the frames of the video.
      mirrored: Whether it is mirrored.
    """

    frames: np.ndarray
    length: int
    part: tuple[float, float, float, float]
    size: crops.Size
    mirrored: bool = False


class Cut(NamedTuple):
    """The part that was cut out of a video.

    Attributes:
      pixels: A clip, uint8 `[t h w c]`, or several, `[v t h w c]`.
      places: Where each clip is.
    """

    pixels: np.ndarray
    places: tuple[Place, ...]


def testing_views(frames: decode.Frames, config: ClipConfig) -> Cut:
    """All views of a video in testing: each temporal sampling with all its crops.

    If there is only one view, its pixels have no axis for it.
    """
    samplings = [
        view_frames(
            config.sampling,
            len(frames),
            config.frames,
            stride=config.stride,
            view=view,
            views=config.temporal_views,
            places=config.view_places,
        )
        for view in range(config.temporal_views)
    ]
    wanted, places = np.unique(np.stack(samplings), return_inverse=True)  # places [views t]
    side = config.test_size

    def boxes(size: crops.Size) -> list[crops.Box]:
        if config.crop_places == "even":
            return crops.view_boxes(size, side, config.spatial_views)
        corners = crops.corner_boxes(size, side)
        return [box for box in corners for _ in range(config.spatial_views // CORNERS)]

    def cover(size: crops.Size) -> tuple[crops.Box, crops.Size]:
        """The area that all crops cover together, so that one resampling serves them all."""
        lefts, tops = zip(*((box.left, box.top) for box in boxes(size)), strict=True)
        out = (max(lefts) + side - min(lefts), max(tops) + side - min(tops))
        return crops.Box(min(lefts), min(tops), *out), out

    pictures, size, original = _pictures(frames, wanted, config.resize, cover)
    area, mirrored = cover(size)[0], config.mirrored_views
    views = np.empty((config.views, config.frames, side, side, 3), np.uint8)
    for s, box in enumerate(boxes(size)):
        y, x = box.top - area.top, box.left - area.left
        part = pictures[:, y : y + side, x : x + side, :][:, :, :: -1 if mirrored[s] else 1]
        for t, place in enumerate(places):
            views[t * config.spatial_views + s] = part[place]
    found = tuple(
        Place(sampling, len(frames), crops.source(original, size, box), original, mirror)
        for sampling in samplings
        for box, mirror in zip(boxes(size), mirrored, strict=False)  # alike in each sampling
    )
    return Cut(views if config.views > 1 else views[0], found)


def training_clip(
    frames: decode.Frames, config: ClipConfig, draws: np.ndarray, *, mirror: bool
) -> Cut:
    """A randomly augmented clip.

    Args:
      frames: Of the video.
      config: Frames, crops and augmentation.
      draws: float64 [config.num_draws] in [0, 1); the clip is a function of them.
      mirror: Whether to mirror it.
    """
    indices = train_frames(
        config.sampling, len(frames), config.frames, draws[_TIME:], stride=config.stride
    )
    wanted, places = np.unique(indices, return_inverse=True)

    def box(size: crops.Size) -> tuple[crops.Box, crops.Size]:
        chosen = crops.train_box(size, config.crop, config.crop_scales, draws[_BOX])
        return chosen, (config.crop, config.crop)

    delta = config.brightness * (2 * draws[_BRIGHTNESS] - 1)
    table = crops.brightness_table(delta) if config.brightness else None
    pictures, size, original = _pictures(frames, wanted, config.resize, box, table)
    if len(wanted) < config.frames:
        pictures = pictures[places]
    part = crops.source(original, size, box(size)[0])
    place = Place(indices, len(frames), part, original, mirror)
    return Cut(pictures[:, :, ::-1] if mirror else pictures, (place,))


def _pictures(
    frames: decode.Frames,
    wanted: np.ndarray,
    short_side: int,
    choose: Callable[[crops.Size], tuple[crops.Box, crops.Size]],
    table: list[int] | None = None,
) -> tuple[np.ndarray, crops.Size, crops.Size]:
    """The same part of each wanted frame.

    Args:
      frames: Of the video.
      wanted: Rising indices, int64 [k].
      short_side: Of the resized frames.
      choose: Size of the resized frames -> which part of them, and its size in the result.
      table: New values of the pixels, if any.

    Returns:
      uint8 `[k h w c]`, the size of the resized frames, and that of the frames of the video.
    """
    images = frames.images(wanted.tolist())
    head = next(images)
    limits.check_aspect(*head.size)
    size = crops.resized(head.size, short_side)
    box, out = choose(size)
    pictures = np.empty((len(wanted), out[1], out[0], 3), np.uint8)
    for k, image in enumerate(itertools.chain([head], images)):
        decode.check_size(image, head.size)
        part = crops.cut(image, size, box, out)
        pictures[k] = np.asarray(part.point(table) if table else part)
    return pictures, size, head.size
