"""The log file after a crash, and what a terminal shows."""

import io
import json
import os
import re

import pytest

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
    logs.truncate(tmp_path / "nothing", 3)


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
def test_a_full_disk_while_logging(tmp_path):
    log = logs.MetricLog(tmp_path, 0, enabled=True)
    log._file.close()
    log._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    with pytest.raises(UserError, match=r"cannot write /dev/full at step 3: No space left"):
        log.write(3, "train", {"loss": 1.0})
    log.close()  # says nothing more
