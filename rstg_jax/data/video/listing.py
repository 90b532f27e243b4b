"""Lists videos and their labels: files below a directory, or lines of a csv file."""

import collections
import contextlib
import contextvars
import os
import unicodedata
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rstg_jax import files, storage
from rstg_jax.data.video import decode
from rstg_jax.errors import UserError, quoted

_HEADER = ["path", "label"]
MISSING = "missing"  # instead of a stamp

T = TypeVar("T")
# What has been read within `read_once`; None outside of it.
_found: contextvars.ContextVar[dict[Hashable, Any] | None] = contextvars.ContextVar(
    "_found", default=None
)


@contextlib.contextmanager
def read_once() -> Iterator[None]:
    """Within it no directory or list is read a second time, and both splits see the same files.

    To open a data set takes several looks at its lists, and a directory may have a million videos.
    """
    token = _found.set({})
    try:
        yield
    finally:
        _found.reset(token)


def kept(key: Hashable, read: Callable[[], T]) -> T:
    """What `read` returns, or has returned for this key within the same `read_once`.

    Whoever gets it must not change it.
    """
    found = _found.get()
    if found is None:
        return read()
    if key not in found:
        found[key] = read()
    return found[key]


class Video(NamedTuple):
    """A video with its labels.

    Attributes:
      path: A file, or a directory of images.
      name: Relative to the directory or csv file that lists it.
      labels: Names of its labels; exactly one, but for `DataConfig.multi_label`.
      frames: If it is a segment, numbers of its images in the directory or of its frames in the
        file.
    """

    path: Path
    name: str
    labels: tuple[str, ...]
    frames: range | None = None

    @property
    def label(self) -> str:
        """Name of its only label."""
        return self.labels[0]

    @property
    def key(self) -> str:
        """Its name with its segment: one that can be read says nothing about the rest of a file."""
        if self.frames is None:
            return self.name
        return f"{self.name} {self.frames.start}:{self.frames.stop}"

    @property
    def encoded(self) -> decode.Encoded:
        """What `decode.opened` opens."""
        if self.frames is None:
            return self.path
        if self.path.suffix.lower() in decode.VIDEO_EXTENSIONS:
            return decode.Segment(self.path, self.frames)
        return tuple(self.path / f"frame_{number:010}.jpg" for number in self.frames)


def listed(path: str, extensions: Sequence[str]) -> list[Video]:
    """All videos of a directory or a csv file, in the order of their names.

    Raises:
      UserError: If there are none, a line cannot be understood, or a directory cannot be read.
    """
    return kept(("listed", path, *extensions), lambda: _listed(path, extensions))


def _listed(path: str, extensions: Sequence[str]) -> list[Video]:
    if not path:
        raise UserError(
            "set path to a directory of videos or a csv file of path;label lines: "
            "--config.data.path=DIR"
        )
    if storage.ADDRESS.match(path):
        raise UserError(f"{path}: videos are read from directories only; copy them, or mount it")
    root = Path(path).expanduser()
    if root.is_dir():
        videos = _of_directory(root, extensions)
        wanted = f"sub-directories, one per label, with files of {', '.join(extensions)}"
    elif root.is_file() and root.suffix.lower() in (*decode.VIDEO_EXTENSIONS, *decode.IMAGES):
        raise UserError(f"{path}: is no directory with one sub-directory per label, nor a csv file")
    elif root.is_file():
        videos, wanted = _of_csv(root), "lines of `path;label`"
    else:
        raise UserError(f"{path}: no such directory or csv file (path, test_path)")
    if not videos:
        raise UserError(f"{path}: holds no video; expected are {wanted}")
    return sorted(videos, key=lambda video: video.name)


def _of_directory(root: Path, extensions: Sequence[str]) -> list[Video]:
    endings = {extension.lower() for extension in extensions}
    videos = []
    try:
        for file in files_below(root):
            if file.parent == root and file.is_symlink() and not file.exists():
                raise UserError(f"{file}: a link to {os.readlink(file)}, which does not exist")
            if file.suffix.lower() in endings and file.parent != root and file.is_file():
                parts = [_text(part) for part in file.relative_to(root).parts]
                videos.append(Video(file, "/".join(parts), (_label(parts[0]),)))
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from error
    return videos


def without_video(path: str, videos: Sequence[Video]) -> list[str]:
    """Names of the sub-directories of a directory in which none of its videos lies."""
    root = Path(path).expanduser()
    there = [file.name for file in root.iterdir() if file.is_dir()] if root.is_dir() else []
    labels = {video.label for video in videos}
    names = [_text(name) for name in there if not name.startswith(".")]
    return sorted(name for name in names if _label(name) not in labels)


def not_taken(path: str, videos: Sequence[Video]) -> list[str]:
    """Numbers and kinds of the files below a directory that are not among its videos.

    Such as ["3 .avi", "1 .mp4 directly in it"], the most frequent first; none for a csv file.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        return []
    taken = {video.path for video in videos}
    kinds: collections.Counter[str] = collections.Counter()
    for file in files_below(root):
        if file not in taken:
            kind = _text(file.suffix.lower()) or "without extension"
            kinds[f"{kind} directly in it" if file.parent == root else kind] += 1
    return [f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda k: (-k[1], k[0]))]


def files_below(
    directory: Path,
    unreadable: Callable[[Path], None] | None = None,
    above: frozenset[Path] = frozenset(),
) -> Iterator[Path]:
    """Paths below a directory that are neither directories nor hidden.

    Symbolic links to directories are followed, but not to one of those `above`, without end.

    Args:
      directory: where to begin.
      unreadable: called with a directory or link that cannot be read; by default this is raised.
      above: directories that are not entered again.

    Raises:
      OSError: a directory cannot be read.
    """
    real = directory.resolve()
    if real in above:
        return
    try:
        with os.scandir(directory) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError:
        if unreadable is None:
            raise
        unreadable(directory)
        return
    for entry in found:
        path = directory / entry.name
        try:
            is_directory = entry.is_dir()
        except OSError:  # such as of a link to itself
            if unreadable is None:
                raise
            unreadable(path)
            continue
        if is_directory:
            yield from files_below(path, unreadable, above | {real})
        else:
            yield path


def stamp(file: Path) -> str:
    """Size and time of a file, which change with its content."""
    try:
        status = file.stat()
    except (OSError, ValueError):  # ValueError: no path of a file can be like this
        return MISSING
    return f"{status.st_size} {status.st_mtime_ns}"


def _text(name: str) -> str:
    """The name of a file as text that can be printed and encoded, though it may not be UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _label(name: str) -> str:
    """Accents in one form: macOS writes them in file names as characters of their own."""
    return unicodedata.normalize("NFC", name)


def _of_csv(file: Path) -> list[Video]:
    found: dict[str, tuple[int, Video]] = {}  # by the absolute path: its line, and the video
    for number, cells in files.read_csv(file, ";"):
        if not any(cells) or (number == 1 and [cell.lower() for cell in cells] == _HEADER):
            continue
        if len(cells) != 2 or not all(cells):
            line = quoted(";".join(cells))
            raise UserError(f"{file}: line {number} is not `path;label`: {line}")
        name, label = cells
        # Not `Path.expanduser`, which refuses names such as "~film.mp4".
        video = Video(file.parent / os.path.expanduser(name), name, (_label(label),))
        if number == 1:
            _refuse_header(file, video)
        place = os.path.abspath(video.path)
        if place in found:
            before, same = found[place]
            raise UserError(
                f"{file}: line {number} names {name} a second time, after {same.name} in line "
                f"{before}: remove one of the lines"
            )
        found[place] = number, video
    return [video for _, video in found.values()]


def _refuse_header(file: Path, video: Video) -> None:
    """Raises `UserError` if the first line must be a header, whose second word were a class."""
    if not video.path.suffix and not os.path.exists(video.path):
        raise UserError(
            f"{file}: line 1 names {video.name!r}, which does not exist; a header must be "
            "`path;label`, or remove the line"
        )
