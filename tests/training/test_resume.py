"""Kills real training processes; what follows equals an uninterrupted run, bit for bit."""

import json
import os
import signal
import socket
import time

import pytest

from rstg_jax.processes import HEARTBEAT_SECONDS, LOST
from tests import standins
from tests.standin_train import TEST_VIDEOS, finish, launch, wait_for
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


def launch_two(workdir, *more, seconds=0.0, of_the_second=(), before_the_second=""):
    """Two processes with two devices each, data and fsdp."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    flags = [f"--coordinator={address}", "--num_processes=2"]
    flags += ["--config.mesh.data=2", "--config.mesh.fsdp=2", *more]
    own = [([], ""), (of_the_second, before_the_second)]
    return [
        launch(
            *(workdir, *flags, f"--process_id={i}", *own_flags),
            seconds=seconds,
            devices=2,
            before=before,
        )
        for i, (own_flags, before) in enumerate(own)
    ]


def assert_two_train_as_one(workdir, whole):
    """Runs two processes to their end: the figures of one process, rounded."""
    results = [finish(process) for process in launch_two(workdir)]
    assert [status for status, _, _ in results] == [0, 0], results
    assert_same_records(workdir, whole)


def assert_same_records(workdir, whole):
    """Losses and metrics of the same steps; every test video is counted once."""
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


@pytest.mark.parametrize(
    ("flags", "videos", "difference"),
    [
        (
            ["--config.optim.learning_rate=5"],
            "36",
            "optim.learning_rate is 5.0, process 0 has 0.01",
        ),
        ([], "36", "the number of test videos is 36, process 0 has 37"),
    ],
)
def test_processes_that_were_given_different_things_all_end(tmp_path, flags, videos, difference):
    """Before anything is compiled or trained; places on the machines may differ."""
    processes = launch_two(
        tmp_path,
        of_the_second=["--config.data.data_dir=/elsewhere", *flags],
        before_the_second=f"os.environ['{TEST_VIDEOS}'] = '{videos}'",
    )
    ends = [finish(process) for process in processes]
    assert [status for status, _, _ in ends] == [2, 2], ends
    for _, _, err in ends:
        assert err.splitlines()[-1] == (
            f"error: process 1: {difference}; give all processes the same code, flags and data"
        )
    assert not (tmp_path / "config.json").exists()


def test_processes_with_workdirs_of_their_own_all_end(tmp_path, whole):
    """One would begin while the other one goes on."""
    processes = launch_two(whole, of_the_second=[f"--workdir={tmp_path / 'other'}"])
    ends = [finish(process) for process in processes]
    assert [status for status, _, _ in ends] == [2, 2], ends
    for _, _, err in ends:
        last = err.splitlines()[-1]
        assert last.startswith("error: process 1: the newest checkpoint in --workdir is None, pro")


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_stops_both_after_the_same_update(tmp_path):
    """At once, and not when the next log line or checkpoint is due."""
    rare = ["--config.train.log_every=1000", "--config.train.eval_every=0"]
    rare += ["--config.train.total_steps=3000", "--config.train.checkpoint_every=100"]
    processes = launch_two(tmp_path, *rare, seconds=0.05)
    wait_for(lambda: 100 in saved(tmp_path), processes[0])
    processes[1].send_signal(signal.SIGTERM)
    ends = [finish(process) for process in processes]
    assert [status for status, _, _ in ends] == [0, 0], ends
    step = max(saved(tmp_path))
    assert 100 < step < 180
    assert ends[1][2].splitlines()[-1].startswith("to resume: ")
    assert f"signal to another process: stopped after step {step}, which is saved" in ends[0][2]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_kill_9_of_one_of_two_processes(tmp_path, whole, victim):
    """The other one ends within seconds, and both go on from the last checkpoint."""
    processes = launch_two(tmp_path, seconds=0.03)
    wait_for(lambda: max(saved(tmp_path), default=0) > 7, processes[0])
    processes[victim].kill()
    begin = time.monotonic()
    status, _, err = finish(processes[1 - victim])
    assert time.monotonic() - begin < 2 * HEARTBEAT_SECONDS
    if victim:
        assert status == LOST
        last = err.splitlines()[-1]
        assert last.startswith(
            "error: process 1 of 2 (counted from 0) is gone, so this one ends too; "
        )
        assert "to go on from what is saved: python" in last and f"{tmp_path}" in last
    else:  # the process that all others ask
        assert status < 0 and "another task died" in err
    assert finish(processes[victim])[0] == -signal.SIGKILL
    assert_two_train_as_one(tmp_path, whole)


@pytest.mark.slow
def test_four_processes_of_the_launcher_train_as_one(tmp_path, whole):
    """SIGTERM to the launcher first; then the same command resumes."""
    process = launch(tmp_path, "--config.mesh.data=4", seconds=0.05, processes=4)
    wait_for(lambda: (tmp_path / "metrics.jsonl").is_file() and standins.records(tmp_path), process)
    process.send_signal(signal.SIGTERM)
    status, _, err = finish(process)
    assert status == 0, err
    assert "[0] SIGTERM: stopped after step" in err
    status, out, err = finish(launch(tmp_path, "--config.mesh.data=4", processes=4))
    assert status == 0, err
    assert "[0] test top1 " in out and "resuming after step" in err
    assert_same_records(tmp_path, whole)


@pytest.mark.slow
def test_the_launcher_names_the_process_that_died(tmp_path):
    process = launch(tmp_path, "--config.mesh.data=2", seconds=0.05, processes=2)
    wait_for(lambda: max(saved(tmp_path), default=0) > 7, process)
    lock = json.loads((tmp_path / "lock.json").read_text())  # of process 0
    os.kill(lock["pid"], signal.SIGKILL)
    status, _, err = finish(process)
    assert status == 2
    last = err.splitlines()[-1]
    assert last.startswith("error: process 0 of 2 (counted from 0) ended first, with SIGKILL; ")
    assert "to resume: python" in last and " -m rstg_jax.launch --processes=2 " in last
    assert "rstg_jax" in last and "--processes=2" in last
