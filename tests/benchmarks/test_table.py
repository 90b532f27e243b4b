"""The runner of the SyncMNIST table: what it trains, when it stops, and the page that it writes."""

import argparse
import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import table, table_page, table_records
from configs import sync_mnist
from rstg_jax import cli, config
from rstg_jax.errors import UserError
from rstg_jax.models import classifier
from rstg_jax.training import init_from, sharding, train_state, weights_file
from rstg_jax.training.sharding import MeshConfig


def make_run(workdir, *, steps, finished, digits=3):
    """The files of a run that was evaluated after each of `steps`."""
    workdir.mkdir(parents=True, exist_ok=True)
    train = {"batch_size": 16, "total_examples": 640, "init_from": ""}
    config = {"train": train, "data": {"num_digits": digits}}
    (workdir / "config.json").write_text(json.dumps(config))
    lines = [
        {"split": "train", "step": step, "examples": 16 * step, "top1": step / 1000, "time": 1.0}
        for step in range(5, max(steps, default=5) + 1, 5)
    ]
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
    starts = [{"commit": "aaaa", "flags": []}, {"commit": workdir.name, "flags": []}] * 2
    (workdir / table.STARTS).write_text("".join(json.dumps(start) + "\n" for start in starts))
    if finished:
        result = {"parameters": 186_000, "config_hash": "0123456789ab"}
        (workdir / "result.json").write_text(json.dumps(result))


def test_phases():
    found = table.phases("lite5_mean_lstm", 7)
    assert [(phase.directory, phase.variant) for phase in found] == [
        ("lite_backbone", "lite_backbone"),
        ("lite3_mean_lstm-first-seed7", "lite3_mean_lstm"),
        ("lite5_mean_lstm-first-seed7", "lite5_mean_lstm"),
        ("lite5_mean_lstm-seed7", "lite5_mean_lstm"),
    ]
    assert found[-1].flags == ("--config.train.seed=7",)
    frozen = [any("optim.frozen" in flag for flag in phase.flags) for phase in found]
    assert frozen == [False, True, True, False]


@pytest.mark.parametrize("row", [row for row in table_page.VARIANTS if row.startswith("lite5")])
def test_every_phase_is_a_run_that_fits_the_one_before(row):
    """The flags are understood, frozen and fresh weights exist, and everything else is there."""
    before, mesh = None, sharding.make_mesh(MeshConfig())
    for phase in table.phases(row, 1):
        parser = argparse.ArgumentParser()
        _, overrides = cli.parse(parser, list(phase.flags))
        if before is not None:
            overrides["train.init_from"] = "somewhere"
        base = sync_mnist.get_config(phase.variant)
        experiment = config.override(base, overrides)
        assert phase.variant == "lite_backbone" or experiment.data.num_digits == int(
            phase.variant[4]
        )
        module = classifier.build(experiment.model, 46)
        setup = train_state.make_setup(module, experiment.loss, experiment.optim, 10)
        video = (experiment.data.num_frames, 64, 64, 1)
        state = train_state.abstract_state(setup, video, mesh)
        here = init_from.flat({"params": state.params})
        if before is not None:
            found = init_from.match(experiment.train, here, before, "before")
            assert not found.ignored and found.pretrained
        before = here


def test_record(tmp_path, monkeypatch):
    monkeypatch.setattr(table_records, "WINDOW", 160)
    first, row = (
        tmp_path / "lite3_i3d-first-seed1",
        ("lite5_i3d", 1, tmp_path, table.phases("lite5_i3d", 1), tmp_path),
    )
    make_run(first, steps=(20,), finished=True)
    make_run(tmp_path / "lite5_i3d-first-seed1", steps=(20,), finished=True, digits=5)
    assert table.record(*row) is None
    make_run(tmp_path / "lite5_i3d-seed1", steps=(), finished=False, digits=5)
    assert table.record(*row) is None  # not evaluated yet
    make_run(tmp_path / "lite5_i3d-seed1", steps=(10, 40, 20), finished=True, digits=5)
    record = table.record(*row)
    assert record["top1"] == 0.4 and record["hours"] == pytest.approx(0.2 + 0.2 + 0.4)
    # Windows of 160 videos are two lines. The first phase with five digits counts, that with three
    # does not.
    assert record["seen"] == 320 + 640
    wanted = [(0, 5, 10), (160, 15, 20), (320, 5, 10), (480, 15, 20), (640, 25, 30), (800, 35, 40)]
    assert record["curve"] == [[seen, pytest.approx((a + b) / 2000)] for seen, a, b in wanted]
    runs = ["lite3_i3d-first-seed1", "lite5_i3d-first-seed1", "lite5_i3d-seed1"]
    assert record["commits"] == ["aaaa", *runs]
    assert record["test_videos"] == 10_000 and record["parameters"] == 186_000
    assert record["phases"] == [
        {"run": run, "examples": examples, "hours": hours, "config_hash": "0123456789ab"}
        for run, examples, hours in zip(runs, (320, 320, 640), (0.2, 0.2, 0.4), strict=True)
    ]


def test_page(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "RESULTS", tmp_path / "docs" / "results")
    make_run(tmp_path / "lite_backbone", steps=(10,), finished=True)
    make_run(tmp_path / "lite3_all_temp_stages-seed0", steps=(10, 40), finished=True)
    make_run(tmp_path / "lite3_mean_lstm-seed0", steps=(10,), finished=False)
    table.write_record("lite3_all_temp_stages", 0, tmp_path)
    table.write_record("lite3_mean_lstm", 0, tmp_path)
    page = (tmp_path / "docs" / "results.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert rows[1:] == [
        "| Mean + LSTM | 77.0 | 10.00 | 0 | 160 of 640 | lite_backbone 160 | 0.2 | - "
        "| `lite3_mean_lstm` | - | aaaa, lite_backbone, lite3_mean_lstm-seed0 |",
        "| RSTG All-temp-stages | 98.9 | 40.00 | 0 | 640 | lite_backbone 160 | 0.5 | 0.19M "
        "| `lite3_all_temp_stages` | 0123456789ab "
        "| aaaa, lite_backbone, lite3_all_temp_stages-seed0 |",
    ]
    assert "results/curves3.svg" in page and "curves5" not in page
    drawn = (tmp_path / "docs" / "results" / "curves3.svg").read_bytes()
    table_page.write(tmp_path / "docs" / "results", tmp_path / "docs" / "results.md")
    assert (tmp_path / "docs" / "results" / "curves3.svg").read_bytes() == drawn


def test_phases_are_trained_until_the_hours_are_over(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "RESULTS", tmp_path / "docs" / "results")
    for done in ("lite_backbone", "lite3_i3d-first-seed0"):
        make_run(tmp_path / done, steps=(40,), finished=True)
    now, trained = [0.0], []

    def train(phase, before, workdir, flags, seconds):
        trained.append((phase.directory, before and before.name, seconds, tuple(flags)))
        now[0] += 1000
        done = phase.directory != "lite3_mean_lstm-first-seed0"
        make_run(workdir, steps=(10,), finished=done)
        return done

    monkeypatch.setattr(table, "train", train)
    monkeypatch.setattr(table.time, "monotonic", lambda: now[0])
    flags = ["--hours=1", f"--workdirs={tmp_path}"]
    flags += ["--rows=lite3_i3d,lite3_mean_lstm"]
    assert table.main([*flags, "--seeds=0", "--config.data.mnist_dir=M"]) == 0
    option = ("--config.data.mnist_dir=M",)
    assert trained == [
        ("lite3_i3d-seed0", "lite3_i3d-first-seed0", 3600, option),
        ("lite3_mean_lstm-first-seed0", "lite_backbone", 2600, option),
    ]


LITE3 = Path(table.ROOT, "rstg_jax/weights/sync_mnist/lite3_positional.safetensors")


def test_weights_stand_for_a_phase(tmp_path, monkeypatch):
    """Nothing before them is trained, and their record is that of the row which they are of."""
    results = tmp_path / "docs" / "results"
    monkeypatch.setattr(table, "RESULTS", results)
    trained = []

    def train(phase, before, workdir, flags, seconds):
        trained.append((phase.directory, before))
        make_run(workdir, steps=(40,), finished=True, digits=int(phase.variant[4]))
        settings = json.loads((workdir / "config.json").read_text())
        settings["train"]["init_from"] = str(before)
        (workdir / "config.json").write_text(json.dumps(settings))
        return True

    monkeypatch.setattr(table, "train", train)
    flags = ["--hours=1", f"--workdirs={tmp_path}", f"--given=lite_backbone={LITE3}"]
    assert table.main([*flags, "--rows=lite3_conv_lstm"]) == 0
    stem = tmp_path / "stem_of_lite3_positional.safetensors"
    first = "lite3_conv_lstm-first-seed0"
    assert trained == [(first, stem), ("lite3_conv_lstm-seed0", tmp_path / first)]
    record = json.loads((results / "lite3_conv_lstm-seed0.json").read_text())
    assert record["phases"][0]["run"] == "lite_backbone of stem_of_lite3_positional.safetensors"
    assert len(record["phases"]) == 3 and record["hours"] == pytest.approx(0.8)

    trained.clear()
    longer = [*flags, "--rows=lite3_conv_lstm", "--longer=5000"]
    assert table.main(longer) == 0
    again = "lite3_conv_lstm-longer-seed0"
    assert trained == [(again, tmp_path / "lite3_conv_lstm-seed0")]
    phase = table.longer(table.phases("lite3_conv_lstm", 0)[-1], 5000)
    assert phase.variant == "lite3_conv_lstm"
    assert phase.flags == ("--config.train.seed=0", "--config.train.total_examples=5000")
    record = json.loads((results / "lite3_conv_lstm-seed0.json").read_text())
    assert [run["run"] for run in record["phases"][-2:]] == ["lite3_conv_lstm-seed0", again]
    assert record["hours"] == pytest.approx(1.2)
    make_run(tmp_path / again, steps=(), finished=False)  # not evaluated: the phase before counts
    assert table.main([*flags, "--rows=lite3_conv_lstm", "--hours=0"]) == 0
    record = json.loads((results / "lite3_conv_lstm-seed0.json").read_text())
    assert record["phases"][-1]["run"] == "lite3_conv_lstm-seed0"

    trained.clear()
    given = "lite3_conv_lstm-first-seed0"
    flags = ["--hours=1", f"--workdirs={tmp_path}/new", f"--given={given}={LITE3}"]
    assert table.main([*flags, "--rows=lite5_conv_lstm"]) == 0
    first = "lite5_conv_lstm-first-seed0"
    assert trained == [(first, LITE3), ("lite5_conv_lstm-seed0", tmp_path / "new" / first)]
    record = json.loads((results / "lite5_conv_lstm-seed0.json").read_text())
    names = [f"{given} of lite3_positional.safetensors", first, "lite5_conv_lstm-seed0"]
    assert [run["run"] for run in record["phases"]] == names
    make_run(tmp_path / "new" / "lite_backbone", steps=(40,), finished=True)  # of another row
    assert table.main([*flags, "--rows=lite5_conv_lstm", "--hours=0"]) == 0
    record = json.loads((results / "lite5_conv_lstm-seed0.json").read_text())
    assert [run["run"] for run in record["phases"]] == names
    with pytest.raises(UserError, match=r"no such phase; these are .*lite5_i3d-first-seed0"):
        table.main([*flags, "--rows=lite5_i3d"])


def test_the_stem_of_a_row_is_all_of_its_backbone_and_nothing_else(tmp_path):
    whole = weights_file.flat(weights_file.read(LITE3))
    stem = weights_file.flat(weights_file.read(table.stem_of(LITE3, tmp_path)))
    assert stem.keys() == {p for p in whole if p.split("/")[1] in ("backbone", "object_map")}
    assert len(stem) < len(whole)
    for path, array in stem.items():
        np.testing.assert_array_equal(array, whole[path])


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
    phase = table.Phase("run", "lite3_i3d", ("--flag=1",))
    assert not table.train(phase, tmp_path / "before", tmp_path / "run", ["--more=2"], 3)
    assert (tmp_path / "run" / "saved").exists()
    assert json.loads((tmp_path / "run" / table.STARTS).read_text()) == {
        "commit": "unknown",
        "flags": ["--flag=1", f"--config.train.init_from={tmp_path / 'before'}", "--more=2"],
    }
    script.write_text("raise SystemExit(2)")
    with pytest.raises(subprocess.CalledProcessError):
        table.train(phase, None, tmp_path / "run", [], 3)


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
