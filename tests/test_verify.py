"""Replaying a run finds it as it was recorded, and finds what was changed."""

import json
import re
import shutil

import numpy as np
import pytest

from rstg_jax import data, evaluate, verify
from rstg_jax.training import integrity, train_loop
from tests import standins


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 20 steps with the checkpoints 0 < 15 < 20."""
    workdir = tmp_path_factory.mktemp("verify") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        standins.install(monkeypatch)
        train_loop.train(standins.experiment(checkpoint_every=5), workdir)
    return workdir


@pytest.fixture
def workdir(tmp_path, trained, monkeypatch):
    standins.install(monkeypatch)
    return shutil.copytree(trained, tmp_path / "run")


def run(capsys, workdir, *flags):
    status = verify.main([f"--workdir={workdir}", *flags])
    return status, capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("other", [np.nan, np.inf])
def test_values_that_are_not_finite_differ(other):
    worst = [verify.difference(x, 1.0) for x in (1.0, other, 2.0)]
    assert worst == [0.0, np.inf, 1.0] and max(worst) == np.inf
    assert verify.difference(np.float32(2), np.float32(np.inf)) == np.inf


def test_a_run_is_identical(workdir, capsys):
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    status, lines = run(capsys, workdir, "--test")
    assert status == 0
    assert lines == [
        "train at step 20: identical",
        "test at step 20: identical",
        "checkpoint 20: identical",
        "test of checkpoint 20: identical",
        "all: identical",
    ]
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before


def test_a_run_is_replayed_from_the_start(workdir, capsys):
    status, lines = run(capsys, workdir, "--start=0", "--steps=12")
    assert (status, lines) == (
        0,
        [f"{split} at step {n}: identical" for split, n in [("train", 5), ("train", 10)]]
        + ["test at step 10: identical", "all: identical"],
    )


def test_another_number_of_devices_agrees_to_rounding(workdir, capsys):
    status, lines = run(capsys, workdir, "--start=0", "--config.mesh.data=4")
    assert status == 0
    found = float(re.fullmatch(r"all: within (.*)", lines[-1])[1])
    assert 0 < found < 1e-4
    status, _ = run(
        capsys, workdir, "--start=0", "--config.mesh.data=4", f"--tolerance={found / 2}"
    )
    assert status == 1


def test_an_embellished_metric_is_found(workdir, capsys):
    path = workdir / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    (changed,) = [line for line in lines if (line["step"], line["split"]) == (20, "test")]
    changed["top1"] += 0.05
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    status, lines = run(capsys, workdir, "--test")
    assert status == 1
    assert [line.split(": ")[0] for line in lines if "within" in line] == [
        "test at step 20",
        "test of checkpoint 20",
        "all",
    ]


def test_some_videos_are_predicted_again(workdir, capsys):
    flags = ("--steps=0", "--test_videos=5")
    with pytest.raises(verify.UserError, match="has no predictions to compare with"):
        run(capsys, workdir, *flags)
    for step in ("15", "last"):
        evaluate.main([f"--workdir={workdir}", f"--step={step}"])
    capsys.readouterr()
    status, lines = run(capsys, workdir, *flags)
    assert status == 0
    assert lines == ["predictions of 5 videos by checkpoint 20: identical", "all: identical"]
    # All predictions are of the split's 37 videos; what lies behind the fifth is not looked at.
    path = workdir / "predictions-test-last.json"
    recorded = json.loads(path.read_text())
    assert len(recorded) == 37
    other = "a" if recorded["3"][0]["label"] != "a" else "b"
    for video in ("3", "9"):
        recorded[video][0]["label"] = other
    path.write_text(json.dumps(recorded))
    assert run(capsys, workdir, "--steps=0", "--test_videos=3")[0] == 0
    status, lines = run(capsys, workdir, *flags)
    assert status == 1
    assert float(re.fullmatch(r"all: within (.*)", lines[-1])[1]) > 0.1
    path.write_text("{}")
    with pytest.raises(verify.UserError, match=r"last\.json: holds no such predictions \('0'\)"):
        run(capsys, workdir, *flags)
    (workdir / "evaluation-test-last.json").write_text("[]")
    with pytest.raises(verify.UserError, match=r"last\.json: is no evaluation"):
        run(capsys, workdir, *flags)


def test_a_split_may_have_a_name_of_its_own(workdir, capsys, monkeypatch):
    """As in Something-Something, where a run tests on the validation split."""

    def with_split(config, split):
        assert split is None
        return config, "test", "validation"

    monkeypatch.setattr(data.SyncMNISTConfig, "with_split", with_split)
    status, lines = run(capsys, workdir, "--steps=0", "--test")
    assert (status, lines) == (0, ["test of checkpoint 20: identical", "all: identical"])


def test_other_weights_are_found(workdir, capsys, tmp_path):
    train_loop.train(standins.experiment(checkpoint_every=5, seed=1), tmp_path / "other")
    for part in ("state", integrity.MANIFEST):
        place = workdir / "checkpoints/20" / part
        (shutil.rmtree if place.is_dir() else place.unlink.__func__)(place)
    shutil.copytree(tmp_path / "other/checkpoints/20/state", workdir / "checkpoints/20/state")
    status, lines = run(capsys, workdir)
    assert status == 1
    assert lines[:2] == ["train at step 20: identical", "test at step 20: identical"]
    assert float(re.fullmatch(r"checkpoint 20: within (.*)", lines[2])[1]) > 0.1


def test_what_was_trained_before_a_run_was_extended_is_not_called_wrong(workdir, capsys):
    train_loop.train(standins.experiment(checkpoint_every=5, total_steps=30), workdir)
    status, lines = run(capsys, workdir)
    assert (status, lines[-1]) == (0, "all: identical")
    with pytest.raises(verify.UserError, match="logged up to step 20 are not those of"):
        run(capsys, workdir, "--start=0", "--steps=12")


def test_nothing_to_compare_is_an_error(workdir, capsys):
    for flags, message in [
        (["--steps=2"], "nothing was recorded from step 16 to 17"),
        (["--start=7"], "--start=7: choose one of 0, 15, 20"),
        (["--start=20"], "--start=20: the run ends at step 20; give an earlier one"),
    ]:
        with pytest.raises(verify.UserError, match=message):
            run(capsys, workdir, *flags)


def test_a_replay_that_is_interrupted_verifies_nothing(workdir, capsys, monkeypatch):
    standins.stop_while_update(monkeypatch, 7)
    with pytest.raises(verify.UserError, match="stopped after step 7; step 12 was to be compared"):
        run(capsys, workdir, "--start=0", "--steps=12")
