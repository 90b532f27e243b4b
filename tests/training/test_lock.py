"""The lock of a working directory: live owners are respected, stale locks are taken over."""

import json
import os
import platform
import subprocess
import sys
import time

import pytest

from rstg_jax.errors import UserError
from rstg_jax.training import lock
from rstg_jax.training.lock import Lock


@pytest.fixture(autouse=True)
def short_beats(monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)


def write(workdir, **owner):
    (workdir / lock.NAME).write_text(json.dumps({"id": "other", "beats": 0} | owner))


def test_the_lock_is_there_while_it_is_held(tmp_path):
    workdir = tmp_path / "new"
    with Lock(workdir):
        owner = json.loads((workdir / lock.NAME).read_text())
        assert (owner["host"], owner["pid"]) == (platform.node(), os.getpid())
    assert not os.listdir(workdir)


def test_a_second_run_is_refused_and_the_first_goes_on(tmp_path):
    with Lock(tmp_path) as first:
        with (
            pytest.raises(UserError, match=f"another run is in {tmp_path}: process {os.getpid()}"),
            Lock(tmp_path),
        ):
            pass
        first.check()
    with Lock(tmp_path):
        pass


def test_processes_that_are_not_first_take_no_lock(tmp_path):
    with Lock(tmp_path), Lock(tmp_path, enabled=False) as other:
        other.check()
        assert os.listdir(tmp_path) == [lock.NAME]


def test_a_dead_process_of_this_host_is_not_waited_for(tmp_path, caplog):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    caplog.set_level("INFO", "rstg_jax")
    write(tmp_path, host=platform.node(), pid=dead.pid, started="1")
    with Lock(tmp_path):
        assert f"process {dead.pid} on {platform.node()}; its lock is taken over" in caplog.text
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="start times are unknown here")
def test_a_later_process_of_the_same_number_is_not_the_owner(tmp_path):
    """Containers that are started again have the same host and process numbers."""
    write(tmp_path, host=platform.node(), pid=os.getpid(), started="1")
    with Lock(tmp_path):
        pass


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="states are unknown here")
def test_a_dead_process_whose_parent_does_not_ask_is_gone(tmp_path):
    """In a container, the first process may never ask for those that were killed."""
    dead = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = lock._start_time(dead.pid)
    write(tmp_path, host=platform.node(), pid=dead.pid, started=started)
    with pytest.raises(UserError, match="another run is in"), Lock(tmp_path):
        pass
    dead.stdin.close()
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is still listed
    assert lock._start_time(dead.pid) == started
    with Lock(tmp_path):
        pass
    dead.wait()


@pytest.mark.parametrize("content", ["", "[]", '{"pid": "x"}'])
def test_an_unreadable_lock_that_stands_still_is_taken_over(tmp_path, content):
    (tmp_path / lock.NAME).write_text(content)
    with Lock(tmp_path):
        pass


def test_a_silent_owner_elsewhere_is_given_up_and_a_living_one_respected(tmp_path, monkeypatch):
    write(tmp_path, host="elsewhere", pid=1, started="1")
    with Lock(tmp_path):
        pass
    write(tmp_path, host="elsewhere", pid=1, started="1")
    naps = []

    def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 2:
            write(tmp_path, host="elsewhere", pid=1, started="1", beats=1)

    monkeypatch.setattr(lock.time, "sleep", sleep)
    with pytest.raises(UserError, match="process 1 on elsewhere; stop it"), Lock(tmp_path):
        pass
    assert json.loads((tmp_path / lock.NAME).read_text())["beats"] == 1


def test_a_run_whose_lock_was_taken_over_saves_nothing_more(tmp_path):
    with Lock(tmp_path) as first:
        write(tmp_path, host="elsewhere", pid=7)
        first._thread.join(timeout=60)
        with pytest.raises(UserError, match=r"another run has taken over .*: process 7 on"):
            first.check()
    assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == 7  # it is not removed


def test_a_run_whose_lock_is_gone_saves_nothing_more(tmp_path):
    with Lock(tmp_path / "run") as first:
        (tmp_path / "run").rename(tmp_path / "elsewhere")
        with pytest.raises(UserError, match=f"{tmp_path}/run/lock.json is gone"):
            first.check()
    assert not (tmp_path / "run").exists()


def test_a_lock_that_cannot_be_read_for_a_while_is_not_lost(tmp_path, caplog):
    """Its owner goes on counting, and removes it in the end."""
    path = tmp_path / lock.NAME
    with Lock(tmp_path) as first:
        content = path.read_text()
        path.unlink()
        path.mkdir()  # cannot be read, even by root
        with pytest.raises(UserError, match=r"cannot read .*lock\.json: Is a directory"):
            first.check()
        wait_for(lambda: "cannot read" in caplog.text)
        path.rmdir()
        path.write_text(content)
        first.check()
        before = json.loads(path.read_text())["beats"]
        wait_for(lambda: json.loads(path.read_text())["beats"] > before)
    assert not os.listdir(tmp_path)


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_owner_counts(tmp_path):
    def beats():
        return json.loads((tmp_path / lock.NAME).read_text())["beats"]

    with Lock(tmp_path):
        wait_for(lambda: beats() >= 2)


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=f"cannot use {tmp_path}/file: is a file"),
        Lock(tmp_path / "file"),
    ):
        pass
