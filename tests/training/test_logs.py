"""The log file after a crash, and what a terminal shows."""

import errno
import io
import json
import os
import pathlib
import re
import struct
import subprocess
import sys

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from rstg_jax.errors import UserError
from rstg_jax.training import logs, train_loop
from tests import standins


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_truncate_removes_later_and_broken_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    good = [json.dumps({"step": s, "split": "train"}) + "\n" for s in (5, 10, 15)]
    path.write_text("".join(good) + '{"step": 12, "spl')
    logs.truncate(path, 10)
    assert path.read_text() == good[0] + good[1]
    path.write_text(good[0].rstrip())  # complete, but its end may be missing
    logs.truncate(path, 10)
    assert path.read_text() == ""
    path.write_bytes(good[0].encode() + b"\xff\x00\n" + good[1].encode()[:-3])  # a torn page
    logs.truncate(path, 10)
    assert path.read_text() == good[0]
    logs.truncate(tmp_path / "nothing", 3)


@pytest.mark.parametrize(
    "foreign",
    ["5", "null", "[]", '"x"', "{}", '{"step": 3}', '{"split": "test"}', "9" * 5000, "[" * 99999],
)
@pytest.mark.parametrize("retest", [False, True])
def test_truncate_removes_lines_that_are_no_rows(tmp_path, foreign, retest):
    path = tmp_path / "metrics.jsonl"
    good = [json.dumps({"step": s, "split": "train"}) + "\n" for s in (5, 10)]
    path.write_text(f"{good[0]}{foreign}\n{good[1]}")
    logs.truncate(path, 10, retest)
    assert path.read_text() == good[0] + good[1]
    assert list(logs.read(path)) == [("train", 5), ("train", 10)]


def test_truncate_removes_a_step_that_is_no_number(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": "3", "split": "train"}\n')
    logs.truncate(path, 10)
    assert path.read_text() == ""


def test_a_log_that_cannot_be_truncated_is_kept(tmp_path, monkeypatch):
    """It is replaced by what is kept of it, at once, or not at all."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 5, "split": "train"}\n{"step": 9, "split": "train"}\n')
    before = path.read_bytes()

    def full(self, *_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "write_bytes", full)
        with pytest.raises(UserError, match=r"cannot write .*metrics\.jsonl: No space left"):
            logs.MetricLog(tmp_path, 5, enabled=True)
    assert path.read_bytes() == before


def test_a_live_bar_on_a_terminal(tmp_path, monkeypatch):
    standins.install(monkeypatch)
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    train_loop.train(standins.experiment(total_steps=12), tmp_path)
    text = terminal.getvalue()
    last = text.split("\r")[-1]
    assert "100%" in last and "12/12 steps" in last and "videos/s" in last
    assert "loss" in last and "top1" in last and "<" in last  # elapsed<remaining
    assert "step 12/12  test: loss" in text
    assert "ETA" not in text  # the plain line


def test_plain_lines_elsewhere(tmp_path, monkeypatch, caplog):
    standins.install(monkeypatch)
    with caplog.at_level("INFO", "rstg_jax"):
        train_loop.train(standins.experiment(total_steps=10), tmp_path)
    assert "compiling the training step" in caplog.text
    assert "step 10/10  loss" in caplog.text
    assert re.search(r"videos/s  waiting for data \d+\.\d%  ETA 00:00", caplog.text)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("which", ["metrics", "events"])
def test_a_full_disk_while_logging(tmp_path, which):
    log = logs.MetricLog(tmp_path, 0, enabled=True)
    with open("/dev/full", "wb", buffering=0) as full:
        owner, name = {
            "metrics": (log, "_file"),
            "events": (log._events._py_recordio_writer, "_writer"),
        }[which]
        getattr(owner, name).close()
        setattr(owner, name, full)
        message = rf"cannot write the logs of step 3 in {tmp_path}: No space left"
        with pytest.raises(UserError, match=message):
            log.write(3, "train", {"loss": 1.0})
        log.close()  # says nothing more


def test_logs_that_cannot_be_opened_are_named(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=f"cannot write the logs of step 4 in {tmp_path}: Is a dir"):
        logs.MetricLog(tmp_path, 4, enabled=True)


def test_tensorboard_finds_every_metric_and_forgets_what_is_repeated(tmp_path):
    """Read back by the writer's own definitions; a new start hides later steps of the first."""
    for start, loss in ((0, 1.0), (2, 5.0)):
        (tmp_path / str(start)).mkdir()
        log = logs.MetricLog(tmp_path / str(start), start, enabled=True)
        for step in (start + 1, start + 2):
            log.write(step, "train", {"loss": loss * step, "time": 0.5})
        log.close()
        (path,) = (tmp_path / str(start)).glob("events.out.tfevents.*")
        version, session, *events = read_events(path)
        assert version.file_version == "brain.Event:2"
        assert (session.step, session.session_log.status) == (start + 1, SessionLog.START)
        found = [(e.step, [(v.tag, v.simple_value) for v in e.summary.value]) for e in events]
        assert found == [
            (step, [("train/loss", loss * step), ("train/time", 0.5)])
            for step in (start + 1, start + 2)
        ]


def read_events(path):
    """Events of a file: length, 4 bytes of its checksum, content, 4 bytes of its checksum."""
    content = path.read_bytes()
    while content:
        (length,) = struct.unpack_from("<Q", content)
        yield Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]


def test_logs_and_scores_load_no_jax():
    """Commands say what went wrong before JAX is there, and without it."""
    code = (
        "import sys; import rstg_jax.training.logs, rstg_jax.training.scores; "
        "sys.exit(bool({'jax', 'flax'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
