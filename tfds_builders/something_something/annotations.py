"""Reads the annotation files of Something-Something V1 and V2 as they are downloaded.

V1, beside `20bn-something-something-v1/<id>/00001.jpg ...`:
  something-something-v1-labels.csv                one class per line, in the order of the indices
  something-something-v1-{train,validation}.csv    id;class
  something-something-v1-test.csv                  id

V2, beside `20bn-something-something-v2/<id>.webm`, in one of two schemes, in `labels/` or not:
  {labels,train,validation,test}.json, something-something-v2-{labels,...}.json
  test-answers.csv, something-something-v2-test-answers.csv    id;class, optional
Classes are the templates without brackets; `labels.json` gives their indices.
"""

import collections
import dataclasses
import difflib
import hashlib
import json
import pathlib
from collections.abc import Iterable
from typing import Any

from rstg_jax import files
from rstg_jax.errors import UserError, named, quoted

SPLITS = ("train", "validation", "test")
_SHOWN = 12  # file names that a message lists
_MAX_NAME = 200  # bytes of an id; file systems take 255 with an ending


@dataclasses.dataclass(frozen=True)
class Annotation:
    """Annotation of a clip.

    Attributes:
      id: Name of its file or folder.
      label: Index of its class; -1 in a test split without answers, else None if missing.
      template: Name of its class, in V2's training and validation splits with brackets.
      placeholders: The words annotated for the brackets.
      caption: The annotated caption, the template with its brackets filled in.
    """

    id: str
    label: int | None
    template: str = ""
    placeholders: tuple[str, ...] = ()
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Annotations:
    """Contents of all annotation files.

    Attributes:
      folder: Folder of the clips.
      label_names: Names of the classes in the order of their indices.
      clips: Clips of each split.
    """

    folder: pathlib.Path
    label_names: tuple[str, ...]
    clips: dict[str, list[Annotation]]

    def file(self, clip: Annotation) -> pathlib.Path:
        """Returns the file (V2) or folder (V1) of a clip."""
        suffix = ".webm" if self.folder.name.endswith("v2") else ""
        return self.folder / f"{clip.id}{suffix}"

    @property
    def total(self) -> int:
        """Number of clips."""
        return sum(map(len, self.clips.values()))

    @property
    def sha256(self) -> str:
        """A digest of names and clips."""
        digest = hashlib.sha256(json.dumps(self.label_names).encode())
        for split, clips in self.clips.items():
            digest.update(split.encode())
            for clip in clips:
                digest.update(json.dumps(dataclasses.astuple(clip)).encode())
        return digest.hexdigest()


def read(version: str, manual_dir: pathlib.Path) -> Annotations:
    """Reads and checks the annotation files of "v1" or "v2".

    Raises:
      UserError: A file or the folder of clips is missing, or an annotation is wrong; the message
        names file and id.
    """
    folder = manual_dir / f"20bn-something-something-{version}"
    places = _find(version, manual_dir, folder)
    names, clips = (_read_v1 if version == "v1" else _read_v2)(places)
    seen: dict[str, pathlib.Path] = {}
    for split, some in clips.items():
        for clip in some:
            if clip.id in seen:
                raise UserError(
                    f"{places[split]}: id {clip.id} is there twice, see {seen[clip.id]}"
                )
            if not _is_name(clip.id):
                raise UserError(f"{places[split]}: id {clip.id!r} is no name of a clip")
            _check_text(places[split], clip)
            seen[clip.id] = places[split]
    return Annotations(folder, names, clips)


def _is_name(text: str) -> bool:
    """Whether a text can be the name of a file, and of none outside its folder."""
    plain = text.isprintable() and "/" not in text and not text.startswith(".")
    return bool(text) and plain and len(text.encode()) <= _MAX_NAME


def _check_text(place: pathlib.Path, clip: Annotation) -> None:
    """Raises `UserError` for halves of characters, which JSON can write and UTF-8 cannot."""
    try:
        "".join((clip.template, clip.caption, *clip.placeholders)).encode()
    except UnicodeEncodeError as e:
        raise UserError(f"{place}: id {clip.id}: a text is no Unicode ({e})") from e


def _candidates(version: str, kind: str) -> list[str]:
    """Returns the possible places of an annotation file."""
    if version == "v1":
        return [f"something-something-v1-{kind}.csv"]
    ending = "csv" if kind == "test-answers" else "json"
    names = [f"{kind}.{ending}", f"something-something-v2-{kind}.{ending}"]
    return [f"labels/{names[0]}", names[1], f"labels/{names[1]}", names[0]]


def _find(version: str, manual_dir: pathlib.Path, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    files = {}
    kinds = ("labels", *SPLITS, *(["test-answers"] if version == "v2" else []))
    for kind in kinds:
        found = [p for name in _candidates(version, kind) if (p := manual_dir / name).is_file()]
        if len(found) > 1:
            raise UserError(f"{found[0]} and {found[1]} are both there: delete one of them")
        files.update({kind: found[0]} if found else {})
    if folder.is_dir() and all(kind in files for kind in ("labels", *SPLITS)):
        return files
    # The expected tree on the left, what is there on the right.
    clip = "<id>/00001.jpg, 00002.jpg, ..." if version == "v1" else "<id>.webm"
    rows = [(f"{folder.name}/{clip}", "found" if folder.is_dir() else "MISSING")]
    for kind in kinds:
        place = str(files[kind].relative_to(manual_dir)) if kind in files else ""
        missing = "not there, not needed" if kind == "test-answers" else "MISSING"
        names = " or ".join(_candidates(version, kind)[:2])
        rows.append((names, f"found {place}" if place else missing))
    width = max(len(name) for name, _ in rows)
    tree = "".join(f"\n  {name:{width}}  {state}" for name, state in rows)
    raise UserError(
        f"{manual_dir}: not a whole download of Something-Something {version.upper()}\n"
        f"  {'expected':{width}}  found{tree}\n{_listing(manual_dir)}"
    )


def _listing(directory: pathlib.Path) -> str:
    if not directory.is_dir():
        return f"{directory} is not a directory."
    names = sorted(p.name + "/" * p.is_dir() for p in directory.iterdir())
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{directory} holds {', '.join(names[:_SHOWN]) or 'nothing'}{more}."


def _lines(path: pathlib.Path) -> list[str]:
    return [line for line in files.read_text(path).splitlines() if line.strip()]


def _not_empty(path: pathlib.Path, clips: list[Any]) -> list[Any]:
    if not clips:
        raise UserError(f"{path}: names no clip; replace it by that of the download")
    return clips


def _index(name: str, indices: dict[str, int], place: str) -> int:
    if name not in indices:
        near = difflib.get_close_matches(name, indices, 1)
        hint = f"; the nearest one is {near[0]!r}" if near else ""
        raise UserError(f"{place}: there is no class {name!r}{hint}")
    return indices[name]


def _indices(path: pathlib.Path, names: Iterable[str]) -> dict[str, int]:
    indices = {name: k for k, name in enumerate(names)}
    double = [name for name, n in collections.Counter(names).items() if n > 1]
    if double or not indices:
        raise UserError(
            f"{path}: {f'class {double[0]!r} is there twice' if double else 'is empty'}"
        )
    _check_classes(path, indices)
    return indices


def _check_classes(path: pathlib.Path, names: Iterable[str]) -> None:
    """Raises `UserError` for names that are no line of text."""
    for name in names:
        if not name.isprintable():
            raise UserError(f"{path}: class {name!r} is no name")


def _read_v1(files: dict[str, pathlib.Path]) -> tuple[tuple[str, ...], dict[str, Any]]:
    indices = _indices(files["labels"], [line.strip() for line in _lines(files["labels"])])
    clips: dict[str, list[Annotation]] = {}
    for split in SPLITS:
        clips[split] = []
        for line in _not_empty(files[split], _lines(files[split])):
            # Names of classes hold commas, never a semicolon.
            id_, _, name = (part.strip() for part in line.partition(";"))
            label = _answer(files[split], id_, name, indices) if name else None
            if split == "test" and not name:
                label = -1
            clips[split].append(Annotation(id_, label, name))
    return tuple(indices), clips


def _read_v2(files: dict[str, pathlib.Path]) -> tuple[tuple[str, ...], dict[str, Any]]:
    indices = _label_indices(files["labels"])
    answers = _answers(files["test-answers"], indices) if "test-answers" in files else None
    clips: dict[str, list[Annotation]] = {}
    for split in SPLITS:
        entries = _not_empty(files[split], _load(files[split], list))
        clips[split] = [_entry(files[split], k, entry, indices) for k, entry in enumerate(entries)]
        if split == "test":
            clips[split] = [_answered(clip, answers, tuple(indices)) for clip in clips[split]]
    unknown = set(answers or ()) - {clip.id for clip in clips["test"]}
    if unknown:
        ids = named([f"id {id_}" for id_ in sorted(unknown)], ", ")
        raise UserError(f"{files['test-answers']}: not in {files['test']}: {ids}")
    return tuple(indices), clips


def _load(path: pathlib.Path, kind: type) -> Any:
    content = files.read_json(path)
    if not isinstance(content, kind):
        raise UserError(f"{path}: must hold a json {'list' if kind is list else 'object'}")
    return content


def _label_indices(path: pathlib.Path) -> dict[str, int]:
    """Class -> index, in the order of the indices."""
    content = _load(path, dict)
    try:
        indices = {name: int(index) for name, index in content.items()}
    except (ValueError, TypeError, OverflowError) as e:
        raise UserError(f"{path}: an index is no number ({e})") from e
    _check_classes(path, indices)
    if sorted(indices.values()) != list(range(len(indices))) or not indices:
        raise UserError(f"{path}: indices must be 0..{len(indices) - 1}, each of them once")
    return dict(sorted(indices.items(), key=lambda item: item[1]))


def _answers(path: pathlib.Path, indices: dict[str, int]) -> dict[str, int]:
    answers: dict[str, int] = {}
    for line in _lines(path):
        id_, _, name = (part.strip() for part in line.partition(";"))
        if id_ in answers:
            raise UserError(f"{path}: id {id_} is there twice")
        answers[id_] = _answer(path, id_, _without_brackets(name), indices)
    return answers


def _answer(path: pathlib.Path, id_: str, name: str, indices: dict[str, int]) -> int:
    """The index of the class in a line `id;class`; ids are numbers, so that headers are found."""
    if name not in indices and not (name and id_.isdecimal()):
        raise UserError(f"{path}: is not `id;class`, without a header: {quoted(f'{id_};{name}')}")
    return _index(name, indices, f"{path}: id {id_}")


def _answered(
    clip: Annotation, answers: dict[str, int] | None, names: tuple[str, ...]
) -> Annotation:
    if answers is None:
        return dataclasses.replace(clip, label=-1)
    label = answers.get(clip.id)
    return dataclasses.replace(clip, label=label, template="" if label is None else names[label])


def _entry(path: pathlib.Path, k: int, entry: Any, indices: dict[str, int]) -> Annotation:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str | int):
        raise UserError(f"{path}: entry {k} has no id")
    id_ = str(entry["id"])
    template, placeholders = entry.get("template") or "", entry.get("placeholders") or []
    if not isinstance(template, str) or not isinstance(placeholders, list):
        raise UserError(f"{path}: id {id_}: template must be a text and placeholders a list")
    label = None
    if template:
        label = _index(_without_brackets(template), indices, f"{path}: id {id_}")
    caption = str(entry.get("label") or "")
    return Annotation(id_, label, template, tuple(map(str, placeholders)), caption)


def _without_brackets(template: str) -> str:
    return template.replace("[", "").replace("]", "")
