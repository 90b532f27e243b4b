"""Something-Something V1 and V2 as TFDS data sets, in array_record files, without TensorFlow."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from rstg_jax.data.video.something_something import VERSION
from rstg_jax.errors import UserError
from tfds_builders.shards import Example, Metadata, Skipped
from tfds_builders.something_something import annotations, clips
from tfds_builders.something_something.annotations import Annotation, Annotations

NAMES = {"v1": "v1", "v2": "v2", "v2_demo": "v2"}  # configuration -> layout of the download
STORES = ("frames", "video")
SHORT_SIDE, QUALITY = 256, 95
TOLERANCE = 0.001  # share of clips that may be broken

_HOMEPAGE = "https://www.qualcomm.com/developer/software/something-something-v-2-dataset"
_CITATION = """\
@inproceedings{goyal2017something,
  title = {The "something something" video database for learning and evaluating visual common
    sense},
  author = {Goyal, Raghav and others},
  booktitle = {IEEE International Conference on Computer Vision},
  year = {2017},
}
"""


@dataclasses.dataclass(eq=False)
class SomethingSomethingBuilderConfig(tfds.core.BuilderConfig):
    """Configuration of the builder; `of` gives it its name.

    Attributes:
      reads: Layout of the download, "v1" or "v2".
      store: "frames": every frame as a JPEG file; for V1 the files of the download, unchanged.
        "video": the webm files of the download (V2 only).
      short_side: Frames of V2 with a longer short side are reduced to this one; none is enlarged.
        0 leaves all as they are.
      quality: JPEG quality for V2, 1..95 as in Pillow.
    """

    reads: str = "v2"
    store: str = "frames"
    short_side: int = SHORT_SIDE
    quality: int = QUALITY

    @classmethod
    def of(cls, name: str = "v2", **settings: Any) -> "SomethingSomethingBuilderConfig":
        """Returns a configuration named `name`, plus the settings that are not defaults.

        Raises:
          UserError: A setting is invalid or does not fit the others.
        """
        if name not in NAMES:
            raise UserError(f"--config={name} must be one of {', '.join(NAMES)}")
        config = cls(name=name, reads=NAMES[name], **settings)
        if config.store not in STORES:
            raise UserError(f"--store={config.store} must be one of {', '.join(STORES)}")
        if config.short_side < 0:
            raise UserError(f"--short_side={config.short_side} must be at least 0")
        if not 1 <= config.quality <= 95:
            raise UserError(f"--quality={config.quality} must lie in 1..95")
        changed = [("short_side", SHORT_SIDE), ("quality", QUALITY)]
        parts = [
            f"{k}{getattr(config, k)}"
            for k, default in changed
            if settings.get(k, default) != default
        ]
        if config.reads == "v1" and (parts or config.store == "video"):
            raise UserError("V1 is stored unchanged: --store, --short_side, --quality are for V2")
        if config.store == "video":
            if parts:
                raise UserError("--store=video stores videos unchanged: no --short_side, --quality")
            parts = ["video"]
        config.name = "-".join([name, *parts])
        config.description = f"Something-Something {config.reads.upper()}, {config.store}."
        return config


class SomethingSomething(tfds.core.GeneratorBasedBuilder):
    """Clips of actions with objects; labels are templates such as "Moving something up".

    The licence forbids redistribution: `manual_dir` holds the official download. For the whole set
    use `python -m tfds_builders.something_something.build`, which writes the same examples in
    several processes, resumes and lists broken clips. `v2_demo` reads the clips that
    `python -m tfds_builders.something_something.make_demo` draws.

    With TensorFlow installed, `file_format="tfrecord"` and `download_and_prepare` write files for
    `as_dataset`; `info.features.deserialize_example` parses records of either format.
    """

    VERSION = tfds.core.Version(VERSION)
    RELEASE_NOTES = {str(VERSION): "The first."}
    BUILDER_CONFIGS = [
        *map(SomethingSomethingBuilderConfig.of, NAMES),
        *(SomethingSomethingBuilderConfig.of(name, store="video") for name in ("v2", "v2_demo")),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "V1: 20bn-something-something-v1/<id>/00001.jpg and something-something-v1-*.csv. "
        "V2: 20bn-something-something-v2/<id>.webm and labels/*.json, or "
        "something-something-v2-*.json."
    )
    builder_config: SomethingSomethingBuilderConfig
    # There are no checksums beside this file; TFDS would import a package that it does not install
    # to look for them.
    code_path = None

    def __init__(self, *, file_format: str | None = None, **kwargs: Any):
        # The default of TFDS, tfrecord, needs TensorFlow.
        super().__init__(file_format=file_format or "array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=features(config),
            supervised_keys=(config.store, "label"),
            homepage=_HOMEPAGE,
            citation=_CITATION,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, Example]]]:
        config = self.builder_config
        found = annotations.read(config.reads, pathlib.Path(dl_manager.manual_dir))
        self.info.features["label"].names = list(found.label_names)
        self.info.metadata.update(metadata(config, found))
        return {split: self._generate_examples(found, split) for split in annotations.SPLITS}

    def _generate_examples(self, found: Annotations, split: str) -> Iterator[tuple[str, Example]]:
        broken = []
        some = found.clips[split]
        for example in examples(self.builder_config, found, split, some):
            if isinstance(example, Skipped):
                broken.append(example)
            else:
                yield example["id"], example
        check_tolerance(broken, len(some), TOLERANCE)


def features(
    config: SomethingSomethingBuilderConfig, label_names: Sequence[str] | None = None
) -> tfds.features.FeaturesDict:
    """Features of an example."""
    text, image = tfds.features.Text, tfds.features.Image
    if config.store == "video":
        stored = text()  # bytes are text to TFDS
    else:
        stored = tfds.features.Sequence(image(shape=(None, None, 3), encoding_format="jpeg"))
    return tfds.features.FeaturesDict(
        {
            "id": text(),
            config.store: stored,
            "num_frames": tfds.features.Scalar(np.int32),
            "fps": tfds.features.Scalar(np.float32),
            # -1 in the test split where there are no answers.
            "label": tfds.features.ClassLabel(names=label_names and list(label_names)),
            # Empty where the download does not tell; V1 has neither brackets nor the other two.
            "template": text(),
            "placeholders": tfds.features.Sequence(text()),
            "caption": text(),
        }
    )


def metadata(config: SomethingSomethingBuilderConfig, found: Annotations) -> Metadata:
    """The facts about the data that results record."""
    result: Metadata = {"reads": config.reads, "store": config.store}
    if config.reads == "v2" and config.store == "frames":
        result |= {"short_side": config.short_side, "jpeg_quality": config.quality}
    result |= {f"{split}_annotated": len(some) for split, some in found.clips.items()}
    return {**result, "annotations_sha256": found.sha256}


def examples(
    config: SomethingSomethingBuilderConfig,
    found: Annotations,
    split: str,
    some: Sequence[Annotation],
) -> Iterator[Example | Skipped]:
    """Examples of some clips of a split, ready to be encoded; one clip is in memory at a time."""
    for annotation in some:
        file = found.file(annotation)
        try:
            clip = _read(config, file, annotation)
        except (clips.BrokenClipError, OSError) as e:
            if isinstance(e, OSError):
                e = clips.BrokenClipError("unreadable", str(e.strerror))
            yield Skipped(split, annotation.id, str(file), e.reason, e.detail, clips.state(file))
            continue
        yield {
            "id": annotation.id,
            config.store: clip.video if config.store == "video" else clip.frames,
            "num_frames": clip.num_frames,
            "fps": clip.fps,
            "label": annotation.label,
            "template": annotation.template,
            "placeholders": list(annotation.placeholders),
            "caption": annotation.caption,
        }


def _read(
    config: SomethingSomethingBuilderConfig, file: pathlib.Path, annotation: Annotation
) -> clips.Clip:
    if annotation.label is None:
        raise clips.BrokenClipError("unlabelled", "its annotation names no class")
    if config.reads == "v1":
        return clips.read_folder(file)
    return clips.read_video(
        file,
        as_video=config.store == "video",
        short_side=config.short_side,
        quality=config.quality,
    )


def check_tolerance(
    broken: Sequence[Skipped], total: int, tolerance: float, where: str = ""
) -> None:
    """Refuses too many broken clips.

    Args:
      broken: Those that are.
      total: Number of all clips.
      tolerance: Share of them that may be broken.
      where: What to add to the message.

    Raises:
      UserError: Names counts by reason and the first few clips.
    """
    if len(broken) <= tolerance * total:
        return
    first = "; ".join(f"id {b.id} ({b.file}): {b.reason}, {b.detail}" for b in broken[:3])
    raise UserError(
        f"{len(broken):,} of {total:,} clips ({len(broken) / total:.2%}) cannot be used, more than "
        f"the tolerance of {tolerance:.2%}: {counts(broken)}. The first: {first}.{where}"
    )


def counts(broken: Sequence[Skipped]) -> str:
    """Such as "3 missing, 1 truncated"."""
    reasons = [b.reason for b in broken]
    return ", ".join(f"{reasons.count(r)} {r}" for r in sorted(set(reasons)))
