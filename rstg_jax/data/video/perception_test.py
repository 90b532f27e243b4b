"""Perception Test: annotations of many tasks in JSON files, of which two become labels here."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rstg_jax import files
from rstg_jax.data.video.json_parts import json_parts
from rstg_jax.data.video.listing import Video, files_below
from rstg_jax.data.video.lists import Lists, warn_once
from rstg_jax.errors import UserError, named, reason

SPLITS = {"train": "train", "test": "valid"}  # the answers of the real test split are hidden
QUESTION = "where is the hidden object at the end of the game"
_MAX_LABELS = 10_000  # a label of each number up to the largest is made
_KEYS = ("metadata", "action_localisation", "mc_question")

Annotation = tuple[str, str, Any]  # where it is, for messages; video; content


def actions(videos: Path, lists: Path, split: str) -> Lists:
    """The set of actions that are annotated in a video; videos without any are left out.

    `label_id` numbers the labels, those of the training split are all.
    """
    annotations = _annotations(lists)
    annotated = {each: list(_actions(lists, annotations, each)) for each in {"train", split}}
    names: dict[int, str] = {}
    for where, _, name, number in annotated["train"]:
        if names.setdefault(number, name) != name:
            raise UserError(f"{where}: label_id {number} is {names[number]!r} and {name!r}")
    if not names:
        raise UserError(f"{lists}: no video of the train split has an action")
    label_names = [names.get(number, f"unused {number}") for number in range(max(names) + 1)]
    labels: dict[str, set[str]] = {}
    for where, video, name, number in annotated[split]:
        if names.get(number) != name:
            raise UserError(f"{where}: {name!r} with label_id {number} is no action of train")
        labels.setdefault(video, set()).add(name)
    found = [_video(videos, name, tuple(sorted(some))) for name, some in labels.items()]
    return Lists(label_names, found)


def _actions(
    lists: Path, annotations: Sequence[Annotation], split: str
) -> Iterator[tuple[str, str, str, int]]:
    """Where it is, video, label and label_id of each action."""
    for where, video, entry in _entries(lists, annotations, split, "action_localisation"):
        for action in entry["action_localisation"]:
            try:
                name, number = action["label"], int(action["label_id"])
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise UserError(f"{where}: is no action: {action}") from error
            if not 0 <= number < _MAX_LABELS or not name:
                raise UserError(f"{where}: is no action: {action}")
            yield where, video, name, number


def cups(videos: Path, lists: Path, split: str) -> Lists:
    """Cup games: where the hidden object is at the end, as the right option says it.

    A game is cut before its end, which shows the answer.
    """
    annotations = _annotations(lists)
    games = {each: list(_games(lists, annotations, each)) for each in {"train", split}}
    known = {option for _, _, options, _ in games["train"] for option in options}
    if not known:
        raise UserError(f"{lists}: no cup game of the train split has a question {QUESTION!r}")
    cuts = _cuts(lists, split)
    found, uncut = [], []
    for where, video, options, answer in games[split]:
        if options[answer] not in known:
            raise UserError(f"{where}: {options[answer]!r} is no option of train")
        if video in cuts:
            shown = range(cuts[video]) if cuts[video] > 0 else None
            found.append(_video(videos, video, (options[answer],), shown))
        else:
            uncut.append(video)
    if uncut:
        names = named(uncut, ", ")
        warn_once(f"{lists}: no cut for {len(uncut)} cup games ({names}): left out")
    return Lists(sorted(known), found)


def _games(
    lists: Path, annotations: Sequence[Annotation], split: str
) -> Iterator[tuple[str, str, list[str], int]]:
    """Where it is, video, options and number of the right one, of each cup game's question."""
    for where, video, entry in _entries(lists, annotations, split, "mc_question"):
        try:
            if not entry["metadata"]["is_cup_game"]:
                continue
            asked = [each for each in entry["mc_question"] if QUESTION in each["question"].lower()]
            for question in asked[:1]:
                options = [option.strip().rstrip(".") for option in question["options"]]
                answer = question["answer_id"]
                if answer not in range(len(options)):
                    raise ValueError(f"answer_id={answer}")
                yield where, video, options, answer
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{where}: is no cup game: {reason(error)}") from error


def _cuts(lists: Path, split: str) -> Mapping[str, int]:
    """The frame before which each game is cut; 0 or less where it is whole."""
    name = f"cut_frame_mapping_{SPLITS[split]}.json"
    for file in files_below(lists):
        if file.name == name:
            content = files.read_json(file)
            try:
                return {video: int(frame) for video, frame in content.items()}
            except (AttributeError, TypeError, ValueError, OverflowError) as error:
                raise UserError(f"{file}: does not map videos to frames") from error
    raise UserError(f"{lists}: has no {name}; uncut, a cup game shows its answer at the end")


def _annotations(lists: Path) -> list[Annotation]:
    """The annotations in all JSON files, for all splits and tasks."""
    found = []
    paths = sorted(file for file in files_below(lists) if file.suffix == ".json")
    for file, content in json_parts(lists, paths, _part, "perception_test"):
        entries = content if isinstance(content, dict) else {}
        described = {
            video
            for video, entry in entries.items()
            if isinstance(entry, dict) and isinstance(entry.get("metadata"), dict)
        }
        if described and (others := entries.keys() - described):
            raise UserError(f"{file}: {min(others)}: has no metadata")
        found += [(f"{file}: {v}", v, entry) for v, entry in entries.items() if v in described]
    return found


def _part(content: Any) -> Any:
    """Of the annotations in a file, all but the tracks of objects and points, which fill it."""
    if not isinstance(content, dict):
        return None
    return {video: _needed(entry) for video, entry in content.items()}


def _needed(entry: Any) -> Any:
    if not isinstance(entry, dict):
        return None
    return {key: entry[key] for key in _KEYS if key in entry}


def _entries(
    lists: Path, annotations: Sequence[Annotation], split: str, task: str
) -> list[Annotation]:
    """Those of the videos of a split that have a task, each video once.

    A video may be in several of the published files.

    Raises:
      UserError: There are none, or two files say different things of a video.
    """
    chosen: dict[str, Annotation] = {}
    for where, video, entry in annotations:
        if entry["metadata"].get("split") == SPLITS[split] and task in entry:
            if not isinstance(entry[task], list):
                raise UserError(f"{where}: {task} is no list")
            other, _, same = chosen.setdefault(video, (where, video, entry))
            if same[task] != entry[task]:
                raise UserError(f"{where}: has another {task} than {other}: remove the wrong one")
    if not chosen:
        raise UserError(
            f"{lists}: no JSON file has the {task} of videos whose metadata have the split "
            f"{SPLITS[split]!r}"
        )
    return list(chosen.values())


def _video(videos: Path, name: str, labels: tuple[str, ...], frames: range | None = None) -> Video:
    return Video(videos / f"{name}.mp4", name, labels, frames)
