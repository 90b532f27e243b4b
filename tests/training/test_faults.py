"""Faults of the machine during training: one line says what and what to do; what was saved stays.

Real processes of the stand-in, with real faults where the system allows them.
"""

import contextlib
import json
import math
import os
import shutil
import subprocess
import time

import numpy as np
import pytest

import train
from rstg_jax import cli, config
from rstg_jax.training import integrity, lock, loop_log, train_loop
from tests import standins
from tests.standin_train import finish, launch, wait_for

# Drops the capability to override permissions, see prctl(2), so that these bind root as well.
BIND_ROOT = "import ctypes; libc = ctypes.CDLL(None); hasattr(libc, 'prctl') and libc.prctl(24, 1)"


def only_error(process):
    """The error with which a process ends, after nothing but plain lines."""
    status, _, err = finish(process)
    assert status == 2, err
    assert "Traceback" not in err and "Exception ignored" not in err and "Warning" not in err, err
    last = err.splitlines()[-1]
    assert last.startswith("error: ")
    return last.removeprefix("error: ")


def checkpoints(workdir):
    folder = workdir / "checkpoints"
    return integrity.steps(folder) if folder.is_dir() else []


def assert_whole(workdir, message):
    """The last good checkpoint that a message names is there, and whole."""
    step = max(checkpoints(workdir))
    assert f"the last good checkpoint: step {step} is kept. When this is mended" in message
    assert integrity.damage(workdir / "checkpoints" / str(step)) is None


def test_a_workdir_that_vanishes(tmp_path):
    """Found at the next log line, though the next checkpoint may be hours away."""
    workdir = tmp_path / "run"
    flags = ("checkpoint_every=0", "eval_every=0", "total_steps=100000")
    process = launch(workdir, *(f"--config.train.{flag}" for flag in flags), seconds=0.02)
    wait_for(lambda: (workdir / "metrics.jsonl").is_file() and standins.records(workdir), process)
    workdir.rename(tmp_path / "moved")  # nothing can be written in between, as with `rm -rf`
    shutil.rmtree(tmp_path / "moved")
    error = only_error(process)
    assert error.startswith(f"{workdir}/lock.json is gone, and perhaps all of the run")
    assert not workdir.exists()


def test_a_workdir_that_becomes_read_only(tmp_path):
    workdir = tmp_path / "run"
    process = launch(workdir, "--config.train.total_steps=100000", seconds=0.02, before=BIND_ROOT)
    wait_for(lambda: checkpoints(workdir), process)
    for path in (workdir / "checkpoints", workdir):
        path.chmod(0o555)
    error = only_error(process)
    for path in (workdir, workdir / "checkpoints"):
        path.chmod(0o755)
    assert "cannot save the checkpoint of step" in error and "Permission denied" in error
    assert_whole(workdir, error)


def test_a_workdir_that_is_read_only_from_the_start(tmp_path):
    tmp_path.chmod(0o555)
    error = only_error(launch(tmp_path, before=BIND_ROOT))
    tmp_path.chmod(0o755)
    assert error == f"cannot write {tmp_path}/lock.json: Permission denied"


@pytest.mark.parametrize("limit", [10, 14])
def test_too_many_open_files(tmp_path, limit):
    """The smaller limit breaks off before the checkpoint has a directory, which was a hang."""
    few = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))"
    error = only_error(launch(tmp_path, before=few))
    assert "Too many open files" in error and "start again" in error


@contextlib.contextmanager
def small_disk(path, size):
    """A file system in memory of its own."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip(f"needs the right to mount: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.mark.slow
def test_a_disk_that_is_really_full(tmp_path, whole):
    """Nothing but time is lost: with more space, the same command ends as if it had been there."""
    with small_disk(tmp_path / "disk", "220k") as workdir:
        error = only_error(launch(workdir))
        assert "cannot save the checkpoint of step" in error and "No space left" in error
        assert_whole(workdir, error)
        subprocess.run(["mount", "-o", "remount,size=64m", str(workdir)], check=True)
        status, _, err = finish(launch(workdir))
        assert status == 0 and "resuming after step" in err, err
        assert standins.records(workdir) == standins.records(whole)
        assert standins.figures(workdir) == standins.figures(whole)


class Hungry(standins.Source):
    """Wants more memory than there is, from its 12th batch on."""

    def batch(self, indices):
        if indices.min() >= 96:
            np.empty(1 << 60, np.uint8)
        return super().batch(indices)


def run(monkeypatch, workdir, *flags):
    """Runs train.py in this process; returns its status."""
    monkeypatch.setattr(config, "load", lambda _: standins.experiment())
    argv = ["--config=x.py", f"--workdir={workdir}", *flags]
    return cli.run(lambda: train.main(argv))


def test_memory_that_a_data_thread_cannot_get(monkeypatch, capsys, tmp_path):
    standins.install(monkeypatch, train=Hungry(size=standins.data.ENDLESS))
    assert run(monkeypatch, tmp_path) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("error: out of memory (Unable to allocate 1.00 EiB for an array")
    assert checkpoints(tmp_path) == [10]
    assert not (tmp_path / lock.NAME).exists()
    # When there is enough, the run goes on and ends as another that always had enough.
    standins.install(monkeypatch)
    for workdir in (tmp_path, tmp_path / "whole"):
        assert run(monkeypatch, workdir) == 0
    assert standins.records(tmp_path) == standins.records(tmp_path / "whole")


def test_memory_that_a_device_cannot_give(capsys):
    def main():
        import jax
        import jax.numpy as jnp

        return jax.block_until_ready(jax.jit(lambda x: x * jnp.ones(1 << 45))(1.0))

    assert cli.run(main) == 2
    assert capsys.readouterr().err.startswith("error: out of memory (RESOURCE_EXHAUSTED: Out of ")


def test_a_clock_that_jumps_back(monkeypatch, tmp_path):
    """By a day, in the middle: metrics, rates and the signs of life go on."""
    standins.install(monkeypatch)
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.02)
    experiment = standins.experiment(total_steps=40, log_every=4)
    train_loop.train(experiment, tmp_path / "whole")
    real, original, beats = time.time, loop_log.log_window, []

    def log_window(run, progress, context):
        if progress.step == 20:
            monkeypatch.setattr(time, "time", lambda: real() - 86_400)
        beats.append(json.loads((run.workdir / lock.NAME).read_text())["beats"])
        original(run, progress, context)

    monkeypatch.setattr(loop_log, "log_window", log_window)
    train_loop.train(experiment, tmp_path / "run")
    assert time.time() < real() - 80_000
    assert standins.records(tmp_path / "run") == standins.records(tmp_path / "whole")
    rows = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    times = [row["time"] for row in rows]
    assert times == sorted(times) and times[0] > 0 and times[-1] < 3600
    assert all(0 <= row["examples_per_second"] < math.inf for row in rows)
    assert all(0 <= row.get("waiting_for_data", 0) <= 1 for row in rows)
    assert beats == sorted(beats) and beats[-1] > beats[4]
    assert os.listdir(tmp_path / "run/checkpoints")
