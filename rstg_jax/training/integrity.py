"""Damage of checkpoints: a checksum of every file, and what happens to damaged checkpoints.

The manifest is the last file that is written before a checkpoint appears under its name, so a
checkpoint has one whenever its process was killed. It lists length and CRC32C of every file: a file
that is cut, altered or missing is found before anything is computed with it.
"""

import json
import logging
import pathlib
import time
from collections.abc import Iterator

import google_crc32c

from rstg_jax import files, storage
from rstg_jax.errors import UserError

MANIFEST = "manifest.json"
COMMITTED = "commit_success.txt"  # the file by which Orbax says in a bucket that all is written
# Orbax changes these two of its own after the manifest is written. No number is in them.
UNLISTED = ("_CHECKPOINT_METADATA", COMMITTED)
_BLOCK = 1 << 20

_log = logging.getLogger(__name__)


def write_manifest(directory: storage.Path) -> None:
    """Lists the files of a checkpoint.

    Raises:
      UserError: the manifest cannot be written.
    """
    listed = {
        path.relative_to(directory).as_posix(): [storage.size(path), _crc32c(path)]
        for path in _files(directory)
    }
    files.write_json(directory / MANIFEST, listed)


def damage(directory: storage.Path) -> str | None:
    """Compares the files of a checkpoint with its manifest.

    Returns:
      The first difference as part of a sentence; None if there is none, or no manifest because an
      earlier version wrote the checkpoint, which none did in a bucket.
    """
    manifest = directory / MANIFEST
    try:
        with storage.errors(manifest):
            listed = json.loads(manifest.read_bytes())
        expected = {str(name): (int(size), int(crc)) for name, (size, crc) in listed.items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing" if storage.in_bucket(directory) else None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        return f"{MANIFEST} is unreadable ({type(error).__name__})"
    for name, (size, crc) in expected.items():
        path = directory / name
        try:
            found = storage.size(path)
            if found != size:
                return f"{name} has {found} bytes of {size}"
            if _crc32c(path) != crc:
                return f"{name} differs from its checksum"
        except FileNotFoundError:
            return f"{name} is missing"
        except (OSError, ValueError) as error:  # ValueError: no file can have this name
            return f"{name!r} is unreadable: {error}"
    return None


def steps(checkpoints: storage.Path) -> list[int]:
    """Steps of the checkpoints in a directory, in order."""
    with storage.errors(checkpoints):
        there = list(checkpoints.iterdir()) if checkpoints.exists() else []
        found = [path for path in there if path.name.isdecimal()]
        if storage.in_bucket(checkpoints):
            found = [path for path in found if (path / COMMITTED).exists()]
    return sorted(int(path.name) for path in found)


def verify(checkpoints: storage.Path, step: int) -> None:
    """Raises `UserError` if a checkpoint is damaged, and names those that are whole."""
    if reason := damage(checkpoints / str(step)):
        whole = [f"--step={s}" for s in steps(checkpoints) if not damage(checkpoints / str(s))]
        choice = "there is no other"
        if whole:
            choice = (
                f"choose {' or '.join(whole)}, or start the training again, which goes on from the "
                "newest whole one"
            )
        raise UserError(f"checkpoint {checkpoints / str(step)} is damaged: {reason}; {choice}")


def set_damaged_aside(checkpoints: storage.Path) -> set[int]:
    """Moves damaged checkpoints to WORKDIR/damaged, for a run that will go on from a whole one.

    Returns:
      The steps of the whole ones.

    Raises:
      UserError: all are damaged; none is moved, so that the run does not begin anew unasked.
    """
    found = {step: damage(checkpoints / str(step)) for step in steps(checkpoints)}
    damaged = {step: reason for step, reason in found.items() if reason}
    if damaged and len(damaged) == len(found):
        reasons = "; ".join(f"{step}: {reason}" for step, reason in damaged.items())
        raise UserError(
            f"every checkpoint in {checkpoints} is damaged ({reasons}); bring one back, or delete "
            "this directory to begin anew"
        )
    for step, reason in damaged.items():
        aside = checkpoints.with_name("damaged") / f"{step}-{time.time_ns()}"
        _move(checkpoints / str(step), aside)
        _log.warning("checkpoint %d is damaged: %s; it is now %s", step, reason, aside)
    return found.keys() - damaged.keys()


def _move(checkpoint: storage.Path, target: storage.Path) -> None:
    """Moves a checkpoint; in a bucket it first stops being one, as files are moved one by one."""
    target.parent.mkdir(exist_ok=True)
    if isinstance(checkpoint, pathlib.Path):
        checkpoint.rename(target)
        return
    with storage.errors(checkpoint):
        (checkpoint / COMMITTED).unlink()
        storage.copy_tree(checkpoint, target)
        checkpoint.rmtree()


def _files(directory: storage.Path) -> Iterator[storage.Path]:
    unlisted = {directory / name for name in (MANIFEST, *UNLISTED)}
    for path in storage.files_below(directory):
        if path not in unlisted:
            yield path


def _crc32c(path: storage.Path) -> int:
    value = 0
    with storage.errors(path), path.open("rb") as file:
        while block := file.read(_BLOCK):
            value = google_crc32c.extend(value, block)
    return value
