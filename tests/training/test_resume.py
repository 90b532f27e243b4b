"""Kills real training processes; what follows equals an uninterrupted run, bit for bit."""

import os
import signal
import socket

import pytest

from tests import standins
from tests.standin_train import finish, launch, wait_for
from tests.standins import figures


def test_sigterm_saves_and_says_how_to_resume(tmp_path, whole):
    process = launch(tmp_path, seconds=0.05)
    wait_for(lambda: (tmp_path / "metrics.jsonl").is_file() and standins.records(tmp_path), process)
    process.send_signal(signal.SIGTERM)
    status, _, err = finish(process)
    assert status == 0, err
    last = err.splitlines()[-1]
    assert last.startswith("to resume: ") and f"{tmp_path}" in last and "--config.train" in last
    step = max(int(name) for name in os.listdir(tmp_path / "checkpoints"))
    assert f"SIGTERM: stopped after step {step}, which is saved" in err
    assert 0 < step < 60 and not (tmp_path / "result.json").exists()
    status, _, err = finish(launch(tmp_path))
    assert status == 0 and f"resuming after step {step}" in err
    assert standins.records(tmp_path) == standins.records(whole)
    assert figures(tmp_path) == figures(whole)


def test_kill_9_loses_nothing_but_time(tmp_path, whole):
    """Twice, at moments that the test does not choose."""
    for step in (7, 28):
        process = launch(tmp_path, seconds=0.03)
        wait_for(lambda step=step: max(saved(tmp_path), default=0) > step, process)
        process.kill()
        finish(process)
    status, _, err = finish(launch(tmp_path))
    assert status == 0 and "resuming after step" in err, err
    assert standins.records(tmp_path) == standins.records(whole)
    assert figures(tmp_path) == figures(whole)


def saved(workdir):
    folder = workdir / "checkpoints"
    names = os.listdir(folder) if folder.is_dir() else []
    return [int(name) for name in names if name.isdecimal()]


def launch_two(workdir, seconds=0.0):
    """Two processes with two devices each, data and fsdp."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    flags = [f"--coordinator={address}", "--num_processes=2"]
    flags += ["--config.mesh.data=2", "--config.mesh.fsdp=2"]
    return [
        launch(workdir, *flags, f"--process_id={i}", seconds=seconds, devices=2) for i in range(2)
    ]


def assert_two_train_as_one(workdir, whole):
    """Runs two processes to their end: the figures of one process, rounded."""
    results = [finish(process) for process in launch_two(workdir)]
    assert [status for status, _, _ in results] == [0, 0], results
    both, one = standins.records(workdir), standins.records(whole)
    assert [(r["step"], r["split"]) for r in both] == [(r["step"], r["split"]) for r in one]
    for a, b in zip(both, one, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["examples"] == b["examples"]


def test_two_processes_train_as_one(tmp_path, whole):
    assert_two_train_as_one(tmp_path, whole)
    # What two processes saved, one process reads.
    status, _, err = finish(launch(tmp_path))
    assert status == 0, err
    assert figures(tmp_path)["loss"] == pytest.approx(figures(whole)["loss"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_kill_9_of_one_of_two_processes(tmp_path, whole, victim):
    """The other one says so and ends; both go on from the last checkpoint."""
    processes = launch_two(tmp_path, seconds=0.03)
    wait_for(lambda: max(saved(tmp_path), default=0) > 7, processes[0])
    processes[victim].kill()
    words = ("another process of this run seems to be gone", "another task died")
    other = processes[1 - victim]
    assert any(word in line for line in other.stderr for word in words)
    if victim == 1:
        other.kill()  # otherwise JAX ends it, when it has missed the other one for 70 to 100 s
    for process in processes:
        assert finish(process)[0] < 0
    assert_two_train_as_one(tmp_path, whole)
