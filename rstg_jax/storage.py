"""Directories of Google Cloud Storage, given as ``gs://BUCKET/PATH`` where a local one may be.

An object there is written whole or not at all and read at once by everybody, but it cannot be
appended to, and a directory cannot be renamed. What needs either is done in a local copy.

While the server does not answer, or says that it is busy, whatever needs it waits for
`PATIENCE_SECONDS` before that is an error.
"""

import contextlib
import functools
import itertools
import logging
import os
import pathlib
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from rstg_jax.errors import UserError, reason

if TYPE_CHECKING:
    from etils import epath

    # They have nearly the same methods.
    Path: TypeAlias = pathlib.Path | epath.Path
else:
    Path = pathlib.PurePath  # of both; etils is loaded for buckets only

SCHEME = "gs://"
PATIENCE_SECONDS = 600.0
ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://")  # of a bucket or a server

_log = logging.getLogger(__name__)


def path(place: "str | Path") -> Path:
    """The path that a user gave, a local one or in a bucket; a path is returned as it is.

    Raises:
      UserError: it is of another kind of server, or the bucket cannot be reached.
    """
    if isinstance(place, pathlib.Path) or not (found := ADDRESS.match(str(place))):
        return pathlib.Path(place).expanduser()
    if found[0] != SCHEME:
        raise UserError(
            f"{place}: {found[0]} is not read or written; give a directory or {SCHEME}BUCKET/PATH"
        )
    if not isinstance(place, str):
        return place
    return _in_bucket(place)


def in_bucket(place: Path) -> bool:
    """Whether a path is not local."""
    return not isinstance(place, pathlib.Path)


def _in_bucket(place: str) -> Path:
    bucket = place.removeprefix(SCHEME).split("/")[0]
    try:
        import fsspec
        import gcsfs  # noqa: F401  etils finds it by itself
        from etils import epath
    except ImportError as error:
        raise UserError(f"{place}: {SCHEME} needs gcsfs: pip install 'rstg-jax[gcs]'") from error
    # What other processes have written must be seen at once.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it raises what it logs
    with errors(place):
        try:
            fsspec.filesystem("gcs").info(bucket)
        except FileNotFoundError as error:
            raise UserError(f"{place}: there is no bucket {bucket!r}") from error
        except OSError as error:
            raise UserError(f"{place}: no access to {bucket!r} ({reason(error)})") from error
    _be_patient()  # only now: a server that never answered is a wrong address
    return epath.Path(place.rstrip("/"))


@functools.cache
def _be_patient() -> None:
    """Has fsspec open buckets by a gcsfs that waits; by itself it gives up after half a minute."""
    import fsspec
    import gcsfs
    from gcsfs import retry

    class Patient(gcsfs.GCSFileSystem):
        async def _request(self, *args: Any, **kwargs: Any) -> Any:
            end = time.monotonic() + PATIENCE_SECONDS
            while True:
                try:
                    return await super()._request(*args, **kwargs)  # tries for half a minute
                except Exception as error:
                    left = end - time.monotonic()
                    if left < 0 or not retry.is_retriable(error):
                        raise
                    why = str(error).strip(", ") or type(error).__name__
                    _log.warning(
                        "%s does not answer (%s); it is asked again for %.0f minutes more",
                        *(SCHEME, why, left / 60),
                    )

    for name in ("gs", "gcs"):
        fsspec.register_implementation(name, Patient, clobber=True)


@contextlib.contextmanager
def errors(place: "str | Path") -> Iterator[None]:
    """Makes an `OSError` of what the body's work in a bucket raises, as a local file would."""
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:
        # gcsfs lets errors of requests, aiohttp and google.auth through, and has some of its own.
        if isinstance(place, pathlib.Path):
            raise
        raise OSError(f"{type(error).__name__}: {reason(error)}") from error


def size(file: Path) -> int:
    """Bytes of a file; raises `FileNotFoundError` if there is none."""
    if isinstance(file, pathlib.Path):
        return file.stat().st_size
    with errors(file):
        return file.stat().length


def files_below(directory: Path) -> list[Path]:
    """All files in a directory and below, sorted."""
    if isinstance(directory, pathlib.Path):
        return sorted(path for path in directory.rglob("*") if path.is_file())
    root = str(directory).removeprefix(SCHEME)  # etils' `walk` leaves the scheme out
    with errors(directory):
        return sorted(
            directory / os.path.relpath(top, root) / name
            for top, _, names in directory.walk()
            for name in names
        )


def names_in(directory: Path) -> list[str]:
    """Names of the files in a directory, sorted; none of directories below."""
    if isinstance(directory, pathlib.Path):
        return sorted(path.name for path in directory.glob("*") if path.is_file())
    with errors(directory):
        top = itertools.islice(directory.walk(), 1)  # what is below may be millions of files
        return sorted(name for _, _, names in top for name in names)


def copy(file: Path, target: Path) -> None:
    """Copies a file, from or to a bucket; makes the directory of a local target."""
    if isinstance(target, pathlib.Path):
        target.parent.mkdir(parents=True, exist_ok=True)
    with errors(file), errors(target), file.open("rb") as source, target.open("wb") as copied:
        shutil.copyfileobj(source, copied, 1 << 20)


@contextlib.contextmanager
def at_hand(file: Path) -> Iterator[pathlib.Path]:
    """Yields a local file with the content of one that may be in a bucket."""
    if isinstance(file, pathlib.Path):
        yield file
        return
    with tempfile.TemporaryDirectory() as directory:
        local = pathlib.Path(directory, file.name)
        copy(file, local)
        yield local


def copy_tree(directory: Path, target: Path) -> None:
    """Copies all files of a directory, from or to a bucket."""
    for file in files_below(directory):
        copy(file, target / file.relative_to(directory).as_posix())
