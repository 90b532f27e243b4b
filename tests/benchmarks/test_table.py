"""The runner of the SyncMNIST table: what it trains, when it stops, and the page that it writes."""

import json
import signal
import subprocess
import time

import pytest

from benchmarks import table, table_page


def make_run(workdir, *, steps, finished):
    """The files of a run that was evaluated after each of `steps`."""
    workdir.mkdir(parents=True)
    config = {"train": {"batch_size": 16, "total_examples": 640}, "data": {"num_digits": 3}}
    config["train"]["init_from"] = "/somewhere/backbone" if finished else ""
    (workdir / "config.json").write_text(json.dumps(config))
    lines = [{"split": "train", "step": 1, "loss": 3.0}]
    lines += [
        {
            "split": "test",
            "step": step,
            "top1": step / 100,
            "top5": 0.9,
            "examples": 10_000,
            "time": 36.0 * step,
        }
        for step in steps
    ]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    starts = [{"commit": "aaaa", "flags": []}, {"commit": "bbbb", "flags": []}] * 2
    (workdir / table.STARTS).write_text("".join(json.dumps(start) + "\n" for start in starts))
    if finished:
        result = {"parameters": 186_000, "config_hash": "0123456789ab"}
        (workdir / "result.json").write_text(json.dumps(result))


def test_record(tmp_path):
    make_run(tmp_path / "run", steps=(10, 40, 20), finished=True)
    record = table.record("lite3_mean_lstm", 1, tmp_path / "run")
    assert record["top1"] == 0.4 and record["videos_seen"] == 640 and record["hours"] == 0.4
    assert record["curve"] == [[160, 0.1], [320, 0.2], [640, 0.4]]
    assert record["commits"] == ["aaaa", "bbbb"] and record["test_videos"] == 10_000
    make_run(tmp_path / "young", steps=(), finished=False)
    assert table.record("lite3_mean_lstm", 0, tmp_path / "young") is None


def test_page(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "RESULTS", tmp_path / "docs" / "results")
    make_run(tmp_path / "a", steps=(10, 40), finished=True)
    make_run(tmp_path / "b", steps=(10,), finished=False)
    table.write_record("lite3_all_temp_stages", 0, tmp_path / "a")
    table.write_record("lite3_mean_lstm", 0, tmp_path / "b")
    page = (tmp_path / "docs" / "results.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert rows[1:] == [
        "| Mean + LSTM | 77.0 | 10.00 | 0 | - | 160 of 640 | 0.1 | - | `lite3_mean_lstm` | - "
        "| aaaa, bbbb |",
        "| RSTG All-temp-stages | 98.9 | 40.00 | 0 | backbone | 640 | 0.4 | 0.19M "
        "| `lite3_all_temp_stages` | 0123456789ab | aaaa, bbbb |",
    ]
    assert "results/curves3.svg" in page and "curves5" not in page
    drawn = (tmp_path / "docs" / "results" / "curves3.svg").read_bytes()
    table_page.write(tmp_path / "docs" / "results", tmp_path / "docs" / "results.md")
    assert (tmp_path / "docs" / "results" / "curves3.svg").read_bytes() == drawn


def test_rows_are_trained_until_the_hours_are_over(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "RESULTS", tmp_path / "docs" / "results")
    make_run(tmp_path / "lite3_i3d-seed0", steps=(40,), finished=True)
    now, trained = [0.0], []

    def train(row, seed, workdir, flags, seconds):
        trained.append((row, seed, seconds, tuple(flags)))
        now[0] += 1000
        make_run(workdir, steps=(10,), finished=False)

    monkeypatch.setattr(table, "train", train)
    monkeypatch.setattr(table.time, "monotonic", lambda: now[0])
    flags = ["--hours=0.5", f"--workdirs={tmp_path}", "--rows=lite3_i3d,lite3_mean_lstm"]
    assert table.main([*flags, "--seeds=0,1", "--config.data.mnist_dir=M"]) == 0
    option = ("--config.data.mnist_dir=M",)
    assert trained == [("lite3_i3d", 1, 1800, option), ("lite3_mean_lstm", 0, 800, option)]


def test_a_run_is_stopped_as_by_a_signal(tmp_path, monkeypatch):
    script = tmp_path / "train.py"
    script.write_text(
        "import signal, sys, time, pathlib\n"
        "workdir = pathlib.Path(sys.argv[2].partition('=')[2])\n"
        "def stop(*_):\n    (workdir / 'saved').touch()\n    sys.exit(int('fail' in sys.argv[3]))\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "(workdir / 'ready').touch()\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(table, "ROOT", tmp_path)

    class Popen(subprocess.Popen):
        """Its time is over once the script is ready."""

        def wait(self, timeout=None):
            ready = tmp_path / "run" / "ready"
            while timeout == 3 and self.poll() is None:
                if ready.exists():
                    raise subprocess.TimeoutExpired(self.args, timeout)
                time.sleep(0.05)
            return super().wait(timeout)

    monkeypatch.setattr(table.subprocess, "Popen", Popen)
    assert not table.train("lite3_i3d", 0, tmp_path / "run", [], 3)
    assert (tmp_path / "run" / "saved").exists()
    assert json.loads((tmp_path / "run" / table.STARTS).read_text()) == {
        "commit": "unknown",
        "flags": [],
    }
    script.write_text("raise SystemExit(2)")
    with pytest.raises(subprocess.CalledProcessError):
        table.train("lite3_i3d", 0, tmp_path / "run", [], 3)


def test_a_signal_ends_the_runner_after_its_run(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "RESULTS", tmp_path / "docs" / "results")
    (tmp_path / "docs").mkdir()
    (tmp_path / "train.py").write_text(
        "import os, signal, sys, time\n"
        "def stop(*_):\n"
        "    open('saved', 'w').close()\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setattr(table, "ROOT", tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(KeyboardInterrupt):
            table.main(["--hours=1", f"--workdirs={tmp_path}", "--rows=lite3_i3d,lite3_mean_lstm"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (tmp_path / "saved").exists() and (tmp_path / "docs" / "results.md").exists()
    assert not (tmp_path / "lite3_mean_lstm-seed0").exists()


def test_mistakes_are_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        table.main(["--hours=1", f"--workdirs={tmp_path}", "--rows=lite4"])
    assert "--rows=lite4: choose from lite3_mean_lstm" in capsys.readouterr().err
