"""The benchmark of kills finds what a careless job loses, and nothing with a careful one."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import kill

COUNT = """
import os, pathlib, sys, time
out = pathlib.Path(sys.argv[1])
out.mkdir(exist_ok=True)
for number in range(5):
    time.sleep(0.1)
"""
CAREFUL = """
    path = out / f"{number}.json"
    (out / "file.tmp").write_text(f"[{number}]")
    (out / "file.tmp").rename(path)
"""
REPEATING = """
    with (out / "examples.txt").open("a") as file:
        file.write(f"{number}\\n")
"""
CUT = """
    with (out / f"{number}.json").open("w") as file:
        file.write(f"[{number}")
        file.flush()
        time.sleep(0.2)
        file.write("]")
"""


def kill_at_work(process, after, number):
    """Kills a job once it has written something."""
    out = Path(process.args[-1])
    while process.poll() is None and not list(out.glob("*.*")):
        time.sleep(0.01)
    process.send_signal(number)
    return process.wait() == -number


def losses(monkeypatch, tmp_path, code, times=3):
    job = kill.Job(lambda out: ["-c", COUNT + code, str(out)], "*")
    monkeypatch.setitem(kill.JOBS, "job", job)
    monkeypatch.setattr(kill, "kill", kill_at_work)
    row = kill.measure("job", times, signal.SIGKILL, random.Random(1), tmp_path)
    assert row["kills"] == times and row["runs"] >= 1
    return row["losses"]


def test_a_careful_job_loses_nothing(monkeypatch, tmp_path):
    assert losses(monkeypatch, tmp_path, CAREFUL) == []


@pytest.mark.parametrize(
    ("code", "loss"), [(REPEATING, "differs"), (CUT, "bad json")], ids=["repeated", "cut"]
)
def test_losses_are_found(monkeypatch, tmp_path, code, loss):
    assert any(loss in text for text in losses(monkeypatch, tmp_path, code))


def test_a_job_that_fails_after_a_kill_is_a_loss(monkeypatch, tmp_path):
    refuse = "    if path.exists(): sys.exit('it is there already')\n"
    first, *rest = CAREFUL.removeprefix("\n").splitlines(keepends=True)
    code = "\n" + first + refuse + "".join(rest)
    assert any("it is there already" in text for text in losses(monkeypatch, tmp_path, code))


def test_a_job_is_killed_unless_it_is_over():
    sleeping, ending = (
        subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({seconds})"])
        for seconds in (600, 0)
    )
    assert kill.kill(sleeping, 0.01, signal.SIGKILL) and sleeping.returncode == -signal.SIGKILL
    assert not kill.kill(ending, 600, signal.SIGKILL) and ending.returncode == 0


@pytest.mark.slow
def test_twenty_kills_of_training_lose_nothing(tmp_path, monkeypatch):
    one = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"  # not the suite's 8
    monkeypatch.setenv("XLA_FLAGS", one)
    row = kill.measure("train", 20, signal.SIGKILL, random.Random(0), tmp_path)
    assert row["kills"] == 20 and row["runs"] >= 5
    assert row["losses"] == []
