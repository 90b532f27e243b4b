"""The runner of the long-range tasks: what it trains, and the table that it writes."""

import json

import pytest

from benchmarks import long_range, table
from tests.benchmarks.test_table import make_run


def test_rows_are_those_of_the_configs_and_the_page_has_them(tmp_path, monkeypatch):
    monkeypatch.setattr(long_range, "RESULTS", tmp_path / "docs")
    trained = []

    def train(phase, before, workdir, flags, seconds):
        trained.append((phase, before, tuple(flags)))
        make_run(workdir, steps=(10, 40), finished=phase.variant == "delay4_lru")
        return True

    monkeypatch.setattr(table, "train", train)
    flags = ["--hours=1", f"--workdirs={tmp_path}", "--rows=delay4_lru,cups5_lstm"]
    assert long_range.main([*flags, "--seeds=0,1", "--config.train.batch_size=8"]) == 0
    option = ("--config.train.batch_size=8",)
    config = "configs/long_range.py"
    assert trained == [
        ((f"{row}-seed{seed}", row, (f"--config.train.seed={seed}",), config), None, option)
        for row in ("delay4_lru", "cups5_lstm")
        for seed in (0, 1)
    ]
    page = (tmp_path / "docs" / "table.md").read_text()
    lines = {line.split(" |")[0]: line for line in page.splitlines() if line.startswith("| `")}
    assert list(lines) == [f"| `{row}`" for row in long_range.DELAY_ROWS]
    assert lines["| `lru`"] == "| `lru` | - | 40.0, 40.0 | - | - | - | - | - | - |"
    assert lines["| `lstm`"] == "| `lstm` | - | - | - | - | - | 40.0 ..., 40.0 ... | - | - |"
    drawn = (tmp_path / "docs" / "delay.svg").read_bytes()
    assert long_range.main(["--hours=0", f"--workdirs={tmp_path}", "--rows=delay4_lru"]) == 0
    assert (tmp_path / "docs" / "delay.svg").read_bytes() == drawn and len(trained) == 4


def test_long_delays_begin_with_a_short_one():
    for row, fresh in (
        ("delay64_lstm", ()),
        ("delay16_dilated", ("--config.train.init_fresh=lag_bias",)),
    ):
        lesson = f"delay4_{row.split('_')[1]}"
        first, second = long_range.phases(row, 3)
        assert (first.variant, second.variant) == (lesson, row)
        assert first.flags == ("--config.train.seed=3",) and second.flags == (*first.flags, *fresh)
    for row in ("delay0_lstm", "delay64_regions_lags", "delay128_objects_lags"):
        assert len(long_range.phases(row, 0)) == 1


def test_mistakes_are_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        long_range.main(["--hours=1", f"--workdirs={tmp_path}", "--rows=delay5_lru"])
    assert "--rows=delay5_lru: choose from delay0_published" in capsys.readouterr().err


def test_the_record_of_given_weights_is_that_of_the_row_which_they_are_of(tmp_path, monkeypatch):
    monkeypatch.setattr(long_range, "RESULTS", tmp_path / "docs")

    def train(phase, before, workdir, flags, seconds):
        make_run(workdir, steps=(40,), finished=True)
        settings = json.loads((workdir / "config.json").read_text())
        settings["train"]["init_from"] = str(before)
        (workdir / "config.json").write_text(json.dumps(settings))
        return True

    monkeypatch.setattr(table, "train", train)
    weights = tmp_path / "short.safetensors"
    weights.touch()
    assert long_range.main(["--hours=1", f"--workdirs={tmp_path}", "--rows=delay4_lru"]) == 0
    given = ["--hours=1", f"--workdirs={tmp_path}/new", f"--given=delay4_lru-seed0={weights}"]
    assert long_range.main([*given, "--rows=delay64_lru"]) == 0
    short, long = (
        json.loads((tmp_path / "docs" / f"{row}-seed0.json").read_text())
        for row in ("delay4_lru", "delay64_lru")
    )
    assert long["phases"][:-1] == short["phases"] and long["hours"] == pytest.approx(0.8)
