"""Training, resuming and evaluating a real model; also run with the newest releases."""

import json

import pytest

import train
from rstg_jax import evaluate

pytestmark = pytest.mark.stack


def run(workdir, steps):
    words = ["--config=configs/sync_mnist.py:tiny", f"--workdir={workdir}", "--config.mesh.data=1"]
    words += [f"--config.train.total_steps={steps}", "--config.optim.schedule=constant"]
    assert train.main(words) == 0
    return json.loads((workdir / "result.json").read_text())


def test_a_resumed_run_ends_like_an_uninterrupted_one(tmp_path):
    whole = run(tmp_path / "whole", 6)
    run(tmp_path / "resumed", 3)
    resumed = run(tmp_path / "resumed", 6)
    assert resumed["steps"] == whole["steps"] == 6
    assert (resumed["loss"], resumed["confusion"]) == (whole["loss"], whole["confusion"])
    assert evaluate.main([f"--workdir={tmp_path / 'whole'}", "--config.mesh.data=1"]) == 0
    again = json.loads((tmp_path / "whole" / "evaluation-test-last.json").read_text())
    assert again["loss"] == pytest.approx(whole["loss"], rel=1e-5)
