"""Data sets of encoded videos, of which the model sees clips."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np

from rstg_jax.data.dataset import DataConfig, Placement
from rstg_jax.data.video import clip_transforms, crops, decode, frame_sampling, label_flip
from rstg_jax.data.video.boxes import BoxesConfig
from rstg_jax.data.video.clip_transforms import ClipConfig
from rstg_jax.errors import UserError

FULL_SIDE = 256
_VIEWS = re.compile(r"([1-9]\d*)x([1-9]\d*)(?:-([1-9]\d*))?(-corners)?(-starts)?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipDataConfig(DataConfig):
    """Part of the configuration that all data sets of clips share.

    Attributes:
      clip: Frames, crops and augmentation.
      workers: Threads that decode in each process; if None, as many as there are cores for it, but
        no more than 16. With 0 or 1 no thread is started.
      processes: Worker processes that load clips, for a machine with many cores; 0 loads in this
        one. Batches are the same.
      broken: What training does with a clip that cannot be decoded any more: "stop" is an error
        that names it; "replace" warns, and takes the next clip that can. Testing always stops.
      boxes: Boxes of objects beside the frames, for networks that read them.
    """

    may_differ: ClassVar[tuple[str, ...]] = (
        "workers",
        "processes",
        "broken",
        "boxes.path",
        "clip.spatial_views",
        "clip.crop_places",
        "clip.temporal_views",
        "clip.view_places",
        "clip.view_size",
    )

    clip: ClipConfig = dataclasses.field(default_factory=ClipConfig)
    workers: int | None = None
    processes: int = 0
    broken: Literal["stop", "replace"] = "stop"
    boxes: BoxesConfig = dataclasses.field(default_factory=BoxesConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("workers", "processes"):
            if (getattr(self, key) or 0) < 0:
                raise UserError(f"{key}={getattr(self, key)} cannot be negative")

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        return self.clip.clip_shape

    @property
    def num_boxes(self) -> int:
        return self.boxes.per_frame

    @property
    def views(self) -> int:
        return self.clip.views

    @property
    def test_clip_shape(self) -> tuple[int, int, int, int]:
        side = self.clip.test_size
        return (self.clip.frames, side, side, 3)

    @property
    def _named(self) -> dict[str, str]:
        """The protocols with a name, spelled as others."""
        side = min(FULL_SIDE, self.clip.resize)
        full = f"-{side}" if side != self.clip.crop else ""
        named = {"center": "1x1", "dense": f"11x2{full}", "tsm": f"3x2{full}-starts"}
        return {**named, "tsn": "10x1-corners"}

    @property
    def protocol(self) -> str:
        """Such as "center", "dense", "3x2", "3x2-96", "5x1-corners" or "3x2-96-starts"."""
        clip = self.clip
        spelled = f"{clip.spatial_views}x{clip.temporal_views}"
        spelled += f"-{clip.test_size}" if clip.test_size != clip.crop else ""
        spelled += "-corners" if clip.crop_places == "corners" else ""
        spelled += "-starts" if clip.view_places == "starts" else ""
        return {other: name for name, other in self._named.items()}.get(spelled, spelled)

    def with_protocol(self, protocol: str) -> Self:
        match = _VIEWS.fullmatch(self._named.get(protocol, protocol))
        if not match or (match[4] and match[1] not in ("5", "10")):
            known = ", ".join([*self._named, "NxM (such as 3x2)", "5xM-corners"])
            raise UserError(f"protocol={protocol}: choose {known} or 10xM-corners")
        if match[5] and self.clip.sampling != "segments":
            raise UserError(
                f"protocol={protocol} needs data.clip.sampling=segments, "
                f"here it is {self.clip.sampling}"
            )
        clip = dataclasses.replace(
            self.clip,
            spatial_views=int(match[1]),
            crop_places="corners" if match[4] else "even",
            temporal_views=int(match[2]),
            view_places="starts" if match[5] else "even",
            view_size=int(match[3]) if match[3] else None,
        )
        return dataclasses.replace(self, clip=clip)

    def logit_places(self, label_names: Sequence[str]) -> np.ndarray | None:
        mirrored = self.clip.mirrored_views
        return label_flip.logit_places(label_names, mirrored) if any(mirrored) else None

    def single_view(self) -> Self:
        return self.with_protocol("center")

    def read_video(self, frames: decode.Frames) -> np.ndarray:
        if self.num_boxes:
            raise UserError(
                "the network reads boxes beside the frames, and nothing says which belong to this "
                "file; give examples of a split, such as test:0-9"
            )
        return clip_transforms.testing_views(frames, self.clip).pixels

    def placement(self, length: int, size: crops.Size) -> Placement:
        clip = self.clip
        chosen = frame_sampling.view_frames(clip.sampling, length, clip.frames, stride=clip.stride)
        distance = np.abs(np.arange(length)[:, None] - chosen)  # [frames t]
        latest = clip.frames - 1 - distance[:, ::-1].argmin(axis=1)  # of frames equally near
        width, height = crops.resized(size, clip.resize)
        box = crops.view_boxes((width, height), clip.test_size, 1)[0]
        return Placement(
            latest,
            distance.min(axis=1) == 0,
            clip.frames,
            (
                box.top / height,
                box.left / width,
                (box.top + box.height) / height,
                (box.left + box.width) / width,
            ),
        )

    @property
    def label_noun(self) -> str:
        """What a label names, for people."""
        return "action"

    def describe(
        self, label_names: Sequence[str], provenance: Mapping[str, Mapping[str, Any]]
    ) -> tuple[str, ...]:
        del provenance
        clip, noun = self.clip, self.label_noun
        count, named = "one", f"the {noun}"
        if self.multi_label:
            count, named = "any number", f"the {noun}s"
        text = (
            f"Every video shows {count} of {len(label_names)} {noun}s, such as “{label_names[0]}” "
            f"and “{label_names[-1]}”. The network is shown {clip.frames} of its frames, "
            f"{clip.test_size} pixels square, and names {named}"
        )
        if clip.views > 1:
            text += f"; in testing it sees {clip.views} such views of a video"
        return (f"{text}.",)
