"""Files and directories that appear whole or not at all, locally or in a bucket."""

import contextlib
import csv
import json
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rstg_jax import storage
from rstg_jax.errors import UserError, quoted, reason


@contextlib.contextmanager
def replacing(path: storage.Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which takes the place of `path` at the end.

    Nothing is left of it if the block raises. It may become a file or a directory; a directory
    replaces nothing but an empty one. What is for a bucket is made locally, and must be a file.

    Raises:
      OSError: It cannot be moved to its place.
    """
    if not isinstance(path, Path):
        with tempfile.TemporaryDirectory() as directory:
            local = Path(directory, path.name)
            yield local
            storage.copy(local, path)
        return
    # Starts with a dot, so that nobody lists it, and ends as `path`, for writers that go by it.
    # Random, as other threads, processes and machines may write the same file. Of the name only the
    # end, as `path` may have the longest one that a file system takes.
    part = path.with_name(f".part{secrets.token_hex(4)}-{path.name[-50:]}")
    try:
        yield part
        part.replace(path)
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def make_directory(path: storage.Path, shown: str) -> None:
    """Creates a directory and those above it, unless it is there.

    Args:
      path: The directory.
      shown: How the error begins, such as "--out=DIR".

    Raises:
      UserError: It cannot be created, or a file has its name.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UserError(f"{shown}: is a file, not a directory") from error
    except OSError as error:
        raise UserError(f"{shown}: {reason(error)}") from error


def write_text(path: storage.Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all.

    Raises:
      UserError: It cannot be written.
    """
    write_bytes(path, text.encode())


def write_bytes(path: storage.Path, content: bytes) -> None:
    """Writes a file whole or not at all.

    Raises:
      UserError: It cannot be written.
    """
    try:
        with replacing(path) as part:
            part.write_bytes(content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason(error)}") from error


def read_json(path: storage.Path) -> Any:
    """Reads a JSON file that anybody may have written.

    Raises:
      UserError: It cannot be read or is no JSON; names the line if it is known.
    """
    return _parsed(read_text(path), path)


def read_json_lines(path: storage.Path) -> list[Any]:
    """Reads a file with a JSON value in every line; raises as `read_json` does."""
    lines = enumerate(read_text(path).splitlines())
    return [_parsed(line, path, before) for before, line in lines]


def read_csv(path: storage.Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Reads a csv file that anybody may have written: lines from 1, and the cells of each.

    A cell ends in its line: a quote that is not closed would else swallow the lines after it.

    Raises:
      UserError: It cannot be read or is not UTF-8, or a line is no csv; names the line.
    """
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        line = line.strip()
        rows = csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True)
        try:
            yield number, [cell.strip() for cell in next(rows)]
        except csv.Error as error:
            raise UserError(
                f"{path}: line {number} cannot be read ({error}): {quoted(line)}; a cell that "
                'begins with " must end with " in the same line'
            ) from error


def read_text(path: storage.Path) -> str:
    """Reads a text file in UTF-8 that anybody may have written.

    Raises:
      UserError: It cannot be read or is not UTF-8.
    """
    try:
        with storage.errors(path):
            return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 ({error}); save it in UTF-8") from error


def _parsed(text: str, path: storage.Path, before: int = 0) -> Any:
    """The value of a JSON text that follows some lines of a file."""
    with json_errors(path, before):
        return json.loads(text)


@contextlib.contextmanager
def json_errors(path: storage.Path, before: int = 0) -> Iterator[None]:
    """Reports what a JSON decoder raises as a `UserError` that names the file and the line.

    Args:
      path: The file.
      before: Lines of it before the text that is decoded.
    """
    try:
        yield
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: line {before + error.lineno}: bad json ({error.msg})") from error
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond Python's bounds
        raise UserError(f"{path}: bad json ({error})") from error


def write_json(path: storage.Path, value: Any) -> None:
    """Writes a JSON file whole or not at all.

    Raises:
      UserError: It cannot be written.
    """
    write_text(path, json.dumps(value, indent=1) + "\n")
