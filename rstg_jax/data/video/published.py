"""Public data sets in the layout in which they are published: lists of splits beside videos.

The lists decide, not what lies in the folders: clips that are missing or damaged are counted and
named. Here are UCF101, HMDB51, Kinetics, Diving48, Jester and EPIC-KITCHENS-100; others have a file
of their own.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from rstg_jax.data.dataset import SPLITS, check_split
from rstg_jax.data.video import cater, clevrer, decode, perception_test
from rstg_jax.data.video.broken_videos import without_broken
from rstg_jax.data.video.clip_dataset import ClipDataConfig
from rstg_jax.data.video.clip_source import ClipSource
from rstg_jax.data.video.listed_source import check_splits, source_of
from rstg_jax.data.video.listing import Video, files_below, kept
from rstg_jax.data.video.lists import Lists, json_list, lines, once, rows
from rstg_jax.errors import UserError, quoted

DataSet = Literal[
    "ucf101",
    "hmdb51",
    "kinetics",
    "diving48",
    "jester",
    "epic_kitchens_verbs",
    "epic_kitchens_nouns",
    "cater_actions_present",
    "cater_actions_order_uniq",
    "cater_localize",
    "clevrer_collisions",
    "perception_test_actions",
    "perception_test_cups",
]
_FLAGS = {"train": "1", "test": "2"}  # of HMDB51's lists; 0 is unused in a split
_ID = 11  # characters of an id of YouTube, which may be dashes and underscores, too
_REPLACEMENT = "replacement"  # begins the names of folders whose clips replace damaged ones


@dataclasses.dataclass(frozen=True)
class PublishedConfig(ClipDataConfig):
    """A public data set on disk.

    Attributes:
      dataset: Which one:
        "ucf101": `path/CLASS/v_CLASS_g01_c01.avi`; lists classInd.txt, trainlist01.txt,
          testlist01.txt; labels are numbered as in classInd.txt, which is not the order of bytes.
        "hmdb51": `path/CLASS/NAME.avi`; lists CLASS_test_split1.txt; labels in alphabetical order.
        "kinetics": any folders below `path`; lists train.csv and val.csv (tested on) of any
          version; labels of train.csv, sorted.
        "diving48": `path/NAME.mp4`; lists Diving48_V2_train.json, Diving48_V2_test.json and
          Diving48_vocab.json, whose order numbers the labels.
        "jester": `path/ID/00001.jpg`; lists jester-v1-labels.csv, whose order numbers the labels,
          jester-v1-train.csv and jester-v1-validation.csv (tested on).
        "epic_kitchens_verbs", "epic_kitchens_nouns": segments of long videos, whose frames are
          `path/P01/rgb_frames/P01_01/frame_0000000001.jpg`; lists EPIC_100_train.csv,
          EPIC_100_validation.csv (tested on) and EPIC_100_verb_classes.csv or
          EPIC_100_noun_classes.csv.
        "cater_actions_present", "cater_actions_order_uniq", "cater_localize":
          `path/CATER_new_000001.avi`; lists actions_present/train.txt, actions_present/val.txt
          (tested on), ... Videos of the first two have any number of labels.
        "clevrer_collisions": any folders with video_00000.mp4 below `path`, and any folders with
          annotation_00000.json below `lists`; numbers below 10000 are for training, those below
          15000 are tested on. Any number of labels, see `rstg_jax.data.video.clevrer`.
        "perception_test_actions", "perception_test_cups": `path/video_1.mp4`; the JSON files below
          `lists`, of which those of the split "valid" are tested on, and for the games
          cut_frame_mapping_train.json and cut_frame_mapping_valid.json. Actions are any number, see
          `rstg_jax.data.video.perception_test`.
      path: Directory of the videos.
      lists: Directory of the lists.
      fold: The split of UCF101 and HMDB51, 1 to 3; published results are means over all three.
      max_broken: Largest share of videos that are missing or cannot be read; they are named and
        left out. Every copy of Kinetics lacks some per cent.
    """

    may_differ: ClassVar[tuple[str, ...]] = (
        *("path", "lists", "max_broken"),
        *ClipDataConfig.may_differ,
    )

    dataset: DataSet = "ucf101"
    path: str = ""
    lists: str = ""
    fold: int = 1
    max_broken: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fold not in (1, 2, 3):
            raise UserError(f"fold={self.fold} must be 1, 2 or 3")
        if self.fold != 1 and not READERS[self.dataset].folds:
            raise UserError(f"fold={self.fold}: {self.dataset} has one split only; leave it at 1")
        if not 0 <= self.max_broken < 1:
            raise UserError(f"max_broken={self.max_broken} must be in [0, 1)")
        if not READERS[self.dataset].mirrors and (self.clip.flip or any(self.clip.mirrored_views)):
            instead = "set clip.flip=false" if self.clip.flip else "test other views, or 5 corners"
            raise UserError(f"a mirrored video of {self.dataset} has no label: {instead}")

    @property
    def num_classes(self) -> int:
        """Number of labels; reads the lists at most."""
        return len(READERS[self.dataset].label_names or self._read("train").label_names)

    @property
    def multi_label(self) -> bool:
        return READERS[self.dataset].multi_label

    @property
    def label_noun(self) -> str:
        return READERS[self.dataset].label_noun

    def open(self, split: str) -> ClipSource:
        check_split(split)
        found = self._read(split)
        usable = without_broken(found.videos, self.path, self.max_broken)
        provenance = {"videos_from": self.dataset, "fold": self.fold}
        counts = (len(found.videos), usable)
        return source_of(self, self.path, split, found.label_names, *counts, provenance)

    def check_lists(self) -> None:
        lists = {split: self._read(split) for split in SPLITS}
        check_splits(self, lists, self.path, self.max_broken)

    def _read(self, split: str) -> "Lists":
        key = ("published", self.dataset, self.path, self.lists, self.fold, split)
        return kept(key, lambda: self._read_lists(split))

    def _read_lists(self, split: str) -> "Lists":
        for key in ("path", "lists"):
            if not getattr(self, key) or not Path(getattr(self, key)).expanduser().is_dir():
                raise UserError(f"{key}={getattr(self, key)!r}: no such directory")
        videos, lists = (Path(place).expanduser() for place in (self.path, self.lists))
        try:
            reader = READERS[self.dataset]
            found = reader.read(videos, lists, split, *([self.fold] if reader.folds else []))
        except OSError as error:  # of a directory below one of them
            raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from error
        if not found.videos:
            raise UserError(f"{self.lists}: lists no video for the {split} split")
        return found


def ucf101(videos: Path, lists: Path, split: str, fold: int) -> Lists:
    """Only training lines have a number; the class is that of the folder.

    File names are taken as they are: those of the class HandstandPushups begin with v_HandStand.
    """
    numbers: dict[str, int] = {}
    file = lists / "classInd.txt"
    for line, text in lines(file):
        match = re.fullmatch(r"(\d{1,9}) (\S+)", text)
        if match is None or int(match[1]) != len(numbers) + 1:
            raise UserError(
                f"{file}: line {line} is not `{len(numbers) + 1} CLASS`: {quoted(text)}"
            )
        numbers[match[2]] = int(match[1])
    found = []
    file = lists / f"{split}list{fold:02}.txt"
    for line, text in lines(file):
        match = re.fullmatch(r"(([^/\s]+)/[^/\s]+)(?: (\d{1,9}))?", text)
        if match is None or match[2] not in numbers:
            raise UserError(f"{file}: line {line} is not `CLASS/FILE` of a class: {quoted(text)}")
        if match[3] and int(match[3]) != numbers[match[2]]:
            raise UserError(
                f"{file}: line {line} numbers {match[2]} {match[3]}, classInd.txt "
                f"{numbers[match[2]]}"
            )
        found.append((line, Video(videos / match[1], match[1], (match[2],))))
    return Lists(list(numbers), once(file, found))


def hmdb51(videos: Path, lists: Path, split: str, fold: int) -> Lists:
    """A list for each class; every line has a name and a flag."""
    ending = f"_test_split{fold}.txt"
    found_lists = lists.glob(f"[!.]*{ending}")  # none of macOS's hidden ._NAME
    label_names = sorted(file.name.removesuffix(ending) for file in found_lists)
    if not label_names:
        raise UserError(f"{lists}: has no lists CLASS{ending}")
    every = []
    for label in label_names:
        file, found = lists / f"{label}{ending}", []
        for line, text in lines(file):
            name, _, flag = text.rpartition(" ")
            if not name or flag not in ("0", "1", "2"):
                raise UserError(f"{file}: line {line} is not `FILE 0`, 1 or 2: {quoted(text)}")
            if flag == _FLAGS[split]:
                found.append((line, Video(videos / label / name, f"{label}/{name}", (label,))))
        every += once(file, found)
    return Lists(label_names, every)


def kinetics(videos: Path, lists: Path, split: str) -> Lists:
    """Clips lie flat or in folders of any spelling; names are `ID_000010_000020.mp4`."""
    label_names = sorted({row["label"] for _, row in _kinetics_rows(lists / "train.csv")})
    where: dict[str, Path] = {}
    replaced: dict[str, Path] = {}
    for file in files_below(videos):
        if file.suffix.lower() in decode.VIDEO_EXTENSIONS:
            inner = file.relative_to(videos).parts[:-1]
            if any(part.startswith(_REPLACEMENT) for part in inner):
                replaced[file.stem[:_ID]] = file
            else:
                where[file.stem] = file
    found, known = [], set(label_names)
    file = lists / ("train.csv" if split == "train" else "val.csv")
    for line, row in _kinetics_rows(file):
        if row["label"] not in known:
            raise UserError(f"{file}: label {row['label']!r} is not in train.csv")
        times = (int(float(row[key])) for key in ("time_start", "time_end"))
        name = row["youtube_id"] + "".join(f"_{time:06}" for time in times)
        path = replaced.get(row["youtube_id"], where.get(name, videos / f"{name}.mp4"))
        found.append((line, Video(path, name, (row["label"],))))
    return Lists(label_names, once(file, found))


def _kinetics_rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    columns = ("label", "youtube_id", "time_start", "time_end")
    for line, row in rows(file, columns):
        seconds = all(re.fullmatch(r"\d{1,9}(\.\d*)?", row[name]) for name in columns[2:])
        if not row["label"] or len(row["youtube_id"]) != _ID or not seconds:
            raise UserError(f"{file}: line {line} is no clip: {list(row.values())}")
        yield line, row


def diving48(videos: Path, lists: Path, split: str) -> Lists:
    """The second version of the labels; a label has four parts."""
    label_names = ["+".join(parts) for parts in json_list(lists / "Diving48_vocab.json")]
    file = lists / f"Diving48_V2_{split}.json"
    found = []
    for number, dive in enumerate(json_list(file)):
        try:
            name, label = f"{dive['vid_name']}.mp4", label_names[dive["label"]]
        except (KeyError, IndexError, TypeError) as error:
            raise UserError(f"{file}: entry {number} is no dive: {dive}") from error
        found.append((number, Video(videos / name, name, (label,))))
    return Lists(label_names, once(file, found, "entry"))


def jester(videos: Path, lists: Path, split: str) -> Lists:
    """Directories of numbered images; lists of `ID;LABEL` without a header."""
    label_names = [text for _, text in lines(lists / "jester-v1-labels.csv")]
    known = set(label_names)
    file = lists / f"jester-v1-{'train' if split == 'train' else 'validation'}.csv"
    found = []
    for line, text in lines(file):
        name, _, label = text.partition(";")
        if not name.isdigit() or label not in known:
            raise UserError(f"{file}: line {line} is not `ID;LABEL` of a label: {quoted(text)}")
        found.append((line, Video(videos / name, name, (label,))))
    return Lists(label_names, once(file, found))


def epic_kitchens(kind: str, videos: Path, lists: Path, split: str) -> Lists:
    """Segments of long videos, by the numbers of frames as they are published.

    Args:
      kind: "verb" or "noun".
      videos: See `PublishedConfig.path`.
      lists: See `PublishedConfig.lists`.
      split: "train" or "test".
    """
    file = lists / f"EPIC_100_{kind}_classes.csv"
    label_names: list[str] = []
    for line, row in rows(file, ("id", "key")):
        if row["id"] != str(len(label_names)) or not row["key"]:
            raise UserError(f"{file}: line {line} is not class {len(label_names)}: {row['id']!r}")
        label_names.append(row["key"])
    file = lists / f"EPIC_100_{'train' if split == 'train' else 'validation'}.csv"
    numbered = dict(enumerate(label_names))  # refuses -1
    numbers = ("start_frame", "stop_frame", f"{kind}_class")
    found = []
    for line, row in rows(file, ("narration_id", "participant_id", "video_id", *numbers)):
        try:
            start, stop, label = (int(row[name]) for name in numbers)
            label_name = numbered[label]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{file}: line {line} is no segment: {list(row.values())}") from error
        if stop < start:
            raise UserError(f"{file}: line {line}: stop_frame={stop} is before start_frame={start}")
        folder = videos / row["participant_id"] / "rgb_frames" / row["video_id"]
        frames = range(start, max(stop, start + 1))  # no segment is empty
        found.append((line, Video(folder, row["narration_id"], (label_name,), frames)))
    return Lists(label_names, once(file, found))


class Reader(NamedTuple):
    """How a data set is read.

    Attributes:
      read: Makes the lists of videos, lists and split, and of the fold if there are `folds`, see
        `PublishedConfig`.
      multi_label: Whether a video has any number of labels.
      mirrors: Whether mirrored videos have labels, see `rstg_jax.data.video.label_flip`.
      label_names: Where they are known without lists.
      label_noun: What a label names.
      folds: Whether there are several splits.
    """

    read: Callable[..., Lists]
    multi_label: bool = False
    mirrors: bool = True
    label_names: tuple[str, ...] = ()
    label_noun: str = "action"
    folds: bool = False


def _cater(task: str, noun: str, *, multi_label: bool) -> Reader:
    read = functools.partial(cater.cater, task)
    return Reader(read, multi_label, multi_label, cater.LABELS[task], noun)


READERS: dict[str, Reader] = {
    "ucf101": Reader(ucf101, folds=True),
    "hmdb51": Reader(hmdb51, folds=True),
    "kinetics": Reader(kinetics),
    "diving48": Reader(diving48, label_noun="dive"),
    "jester": Reader(jester, label_noun="gesture"),
    "epic_kitchens_verbs": Reader(functools.partial(epic_kitchens, "verb"), label_noun="verb"),
    "epic_kitchens_nouns": Reader(functools.partial(epic_kitchens, "noun"), label_noun="noun"),
    # The camera looks askew at the ground: the mirror image of a place is no place.
    "cater_localize": _cater("localize", "place", multi_label=False),
    "cater_actions_present": _cater("actions_present", "action", multi_label=True),
    "cater_actions_order_uniq": _cater("actions_order_uniq", "order", multi_label=True),
    "clevrer_collisions": Reader(
        clevrer.clevrer,
        multi_label=True,
        label_names=clevrer.COLLISIONS,
        label_noun="collision",
    ),
    "perception_test_actions": Reader(perception_test.actions, multi_label=True),
    # Places are counted from the left.
    "perception_test_cups": Reader(perception_test.cups, mirrors=False, label_noun="place"),
}
