"""A lock on a working directory: two runs in it would overwrite each other's checkpoints.

The lock is a file with the owner's host and process. Its owner adds to a count in it every few
seconds, and removes it at the end. A lock whose owner is gone is taken over: on the same host if
the process no longer exists, on another host if the count stands still. No clocks are compared.

A bucket has no file that only one of two processes can create or move. Of two runs that begin there
within the same second both may start; the one that wrote first finds the other's lock before it
saves anything, and ends.
"""

import json
import logging
import os
import platform
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from rstg_jax import files, storage
from rstg_jax.errors import UserError, reason

NAME = "lock.json"
BEAT_SECONDS = 5.0
PATIENCE_BEATS = 4  # an owner elsewhere that misses so many is gone

_log = logging.getLogger(__name__)


class Lock:
    """Owns a working directory while it is open. Use as a context manager."""

    def __init__(self, workdir: storage.Path, enabled: bool = True):
        """Names the directory; `enabled` is False for all but the first process of a run."""
        self._path = workdir / NAME
        self._enabled = enabled
        self._owner: dict[str, Any] = {
            "host": platform.node(),
            "pid": os.getpid(),
            "started": _start_time(os.getpid()),
            "id": uuid.uuid4().hex,
        }
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)

    def __enter__(self) -> "Lock":
        """Takes the lock.

        Raises:
          UserError: another run has it, or it cannot be written.
        """
        if self._enabled:
            workdir = self._path.parent
            files.make_directory(workdir, f"cannot use {workdir}")
            self._take()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._enabled:
            return
        self._end.set()
        self._thread.join()
        try:
            with storage.errors(self._path):
                if _read(self._path).get("id") == self._owner["id"]:
                    self._path.unlink(missing_ok=True)
        except (OSError, UserError) as error:  # whoever comes next finds that its owner is gone
            _log.warning("cannot remove %s: %s", self._path, reason(error))

    def check(self) -> None:
        """Raises `UserError` if the lock is gone or another run's; nothing may be saved then."""
        owner = _read(self._path) if self._enabled else self._owner
        if not owner:
            raise UserError(
                f"{self._path} is gone, and perhaps all of the run; nothing more is saved there. "
                "If its checkpoints can be brought back, start again: the run resumes from them"
            )
        if owner.get("id") != self._owner["id"]:
            raise UserError(
                f"another run has taken over {self._path.parent}, because this one did not answer "
                f"for a while; nothing more is saved here: {_describe(owner)}"
            )

    def _take(self) -> None:
        if not isinstance(self._path, Path):
            if owner := _read(self._path):
                self._refuse_living(owner)
                self._tell_of(owner)
            files.write_json(self._path, {**self._owner, "beats": 0})
            return
        for _ in range(3):
            try:
                with self._path.open("x", encoding="utf-8") as file:
                    json.dump({**self._owner, "beats": 0}, file)
            except FileExistsError:
                self._remove_stale(self._path)
            except OSError as error:
                raise UserError(f"cannot write {self._path}: {error.strerror}") from error
            else:
                return
        raise UserError(f"{self._path}: several runs are starting in this directory at once")

    def _remove_stale(self, path: Path) -> None:
        """Removes the lock of an owner that is gone; raises `UserError` if it is there."""
        owner = _read(path)
        self._refuse_living(owner)
        # Two processes may find the same stale lock: only one of them can move it away.
        stale = path.with_name(f".{NAME}-{self._owner['id']}")
        try:
            path.rename(stale)
        except FileNotFoundError:
            return
        if _read(stale).get("id") != owner.get("id"):  # the other one was faster, this is its lock
            os.link(stale, path)
            stale.unlink()
            return
        stale.unlink()
        self._tell_of(owner)

    def _refuse_living(self, owner: dict[str, Any]) -> None:
        if _is_alive(owner, self._path):
            raise UserError(
                f"another run is in {self._path.parent}: {_describe(owner)}; stop it, or use "
                "another --workdir"
            )

    def _tell_of(self, owner: dict[str, Any]) -> None:
        _log.info(
            "the run that had %s is gone: %s; its lock is taken over",
            self._path.parent,
            _describe(owner),
        )

    def _beat(self) -> None:
        beats = 0
        while not self._end.wait(BEAT_SECONDS):
            beats += 1
            try:
                if _read(self._path).get("id") != self._owner["id"]:
                    return
                files.write_json(self._path, {**self._owner, "beats": beats})
            except UserError as error:  # a full disk is the business of what must be saved
                _log.warning("%s", error)


def _read(path: storage.Path) -> dict[str, Any]:
    """The content of a lock; empty if it is gone or damaged.

    Raises:
      UserError: It is there but cannot be read, such as for too many open files.
    """
    try:
        owner = files.read_json(path)
    except UserError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
            raise
        return {}
    return owner if isinstance(owner, dict) else {}


def _is_alive(owner: dict[str, Any], path: storage.Path) -> bool:
    if owner.get("host") == platform.node() and isinstance(owner.get("pid"), int):
        pid = owner["pid"]
        return _exists(pid) and owner.get("started") == _start_time(pid)
    _log.info("%s is locked from elsewhere: waiting for a sign of life", path.parent)
    for _ in range(PATIENCE_BEATS):
        time.sleep(BEAT_SECONDS)
        if _read(path) != owner:
            return True
    return False


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    # One that has ended keeps its number until its parent asks, which not every container's does.
    return _stat(pid)[:1] != ["Z"]


def _start_time(pid: int) -> str:
    """When a process started, in ticks since the boot, which no later process of its number shares.

    Empty on systems that do not tell.
    """
    return "".join(_stat(pid)[19:20])


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty on systems without it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
    except OSError:
        return []
    return stat.rpartition(")")[2].split()  # the name, in brackets, may contain spaces


def _describe(owner: dict[str, Any]) -> str:
    return f"process {owner.get('pid', 'unknown')} on {owner.get('host', 'an unknown host')}"
