"""Damage of checkpoints: a checksum of every file, and what happens to damaged checkpoints.

The manifest is the last file that is written before a checkpoint appears under its name, so a
checkpoint has one whenever its process was killed. It lists length and CRC32C of every file: a file
that is cut, altered or missing is found before anything is computed with it.
"""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import google_crc32c

from rstg_jax import files
from rstg_jax.errors import UserError

MANIFEST = "manifest.json"
# Orbax changes these two of its own after the manifest is written. No number is in them.
UNLISTED = ("_CHECKPOINT_METADATA", "commit_success.txt")
_BLOCK = 1 << 20

_log = logging.getLogger(__name__)


def write_manifest(directory: Path) -> None:
    """Lists the files of a checkpoint.

    Raises:
      UserError: the manifest cannot be written.
    """
    listed = {
        path.relative_to(directory).as_posix(): [path.stat().st_size, _crc32c(path)]
        for path in _files(directory)
    }
    files.write_json(directory / MANIFEST, listed)


def damage(directory: Path) -> str | None:
    """Compares the files of a checkpoint with its manifest.

    Returns:
      The first difference as part of a sentence; None if there is none, or no manifest because an
      earlier version wrote the checkpoint.
    """
    manifest = directory / MANIFEST
    try:
        listed = json.loads(manifest.read_bytes())
        expected = {str(name): (int(size), int(crc)) for name, (size, crc) in listed.items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        return f"{MANIFEST} is unreadable ({type(error).__name__})"
    for name, (size, crc) in expected.items():
        path = directory / name
        try:
            found = path.stat().st_size
            if found != size:
                return f"{name} has {found} bytes of {size}"
            if _crc32c(path) != crc:
                return f"{name} differs from its checksum"
        except FileNotFoundError:
            return f"{name} is missing"
        except (OSError, ValueError) as error:  # ValueError: no file can have this name
            return f"{name!r} is unreadable: {error}"
    return None


def steps(checkpoints: Path) -> list[int]:
    """Steps of the checkpoints in a directory, in order."""
    return sorted(int(path.name) for path in checkpoints.glob("*") if path.name.isdecimal())


def verify(checkpoints: Path, step: int) -> None:
    """Raises `UserError` if a checkpoint is damaged, and names those that are whole."""
    if reason := damage(checkpoints / str(step)):
        whole = [f"--step={s}" for s in steps(checkpoints) if not damage(checkpoints / str(s))]
        choice = f"choose {' or '.join(whole)}" if whole else "there is no other"
        raise UserError(f"checkpoint {checkpoints / str(step)} is damaged: {reason}; {choice}")


def set_damaged_aside(checkpoints: Path) -> set[int]:
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
        aside.parent.mkdir(exist_ok=True)
        (checkpoints / str(step)).rename(aside)
        _log.warning("checkpoint %d is damaged: %s; it is now %s", step, reason, aside)
    return found.keys() - damaged.keys()


def _files(directory: Path) -> Iterator[Path]:
    unlisted = {directory / name for name in (MANIFEST, *UNLISTED)}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path not in unlisted:
            yield path


def _crc32c(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            value = google_crc32c.extend(value, block)
    return value
