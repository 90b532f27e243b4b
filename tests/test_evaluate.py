"""Evaluation from a checkpoint alone gives the figures of the run."""

import json

import pytest

from rstg_jax import cli, evaluate
from rstg_jax.errors import UserError
from tests import standins


def test_same_figures_as_the_run(workdir, capsys):
    result = json.loads((workdir / "result.json").read_text())
    assert evaluate.main([f"--workdir={workdir}"]) == 0
    written = json.loads((workdir / "evaluation-test-last.json").read_text())
    for name in ("loss", "top1", "top5", "examples", "confusion", "label_names", "config_hash"):
        assert written[name] == result[name], name
    assert written["step"] == 20
    assert written["data"]["test"] == result["data"]["test"]
    out = capsys.readouterr().out
    assert f"{result['top1']:.2%}" in out and "last checkpoint (step 20)" in out

    # Another batch size, and devices: the same videos, counted once.
    argv = [f"--workdir={workdir}", "--step=20", "--config.train.eval_batch_size", "64"]
    assert evaluate.main([*argv, "--config.mesh.data=8"]) == 0
    other = json.loads((workdir / "evaluation-test-20.json").read_text())
    assert other["confusion"] == result["confusion"]
    assert other["loss"] == pytest.approx(result["loss"], rel=1e-6)


def test_an_older_step(workdir):
    assert evaluate.main([f"--workdir={workdir}", "--step=10"]) == 0
    lines = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    logged = next(x for x in lines if (x["step"], x["split"]) == (10, "test"))
    written = json.loads((workdir / "evaluation-test-10.json").read_text())
    assert {k: written[k] for k in ("loss", "top1", "top5")} == {
        k: logged[k] for k in ("loss", "top1", "top5")
    }


def test_what_cannot_be_evaluated_is_said(workdir, monkeypatch, capsys):
    with pytest.raises(UserError, match="endless"):
        evaluate.main([f"--workdir={workdir}", "--split=train"])
    with pytest.raises(UserError, match=r"no checkpoint '7' in .*; choose best, last, 10, 20"):
        evaluate.main([f"--workdir={workdir}", "--step=7"])
    standins.install(monkeypatch, test=standins.Source("test", classes=6))
    with pytest.raises(UserError, match=r"stripes test has 6 labels.*the checkpoint has 7"):
        evaluate.main([f"--workdir={workdir}"])
    monkeypatch.setattr("sys.argv", ["evaluate", "--workdir=nowhere"])
    assert cli.run(evaluate.main) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: no checkpoint in nowhere") and "Traceback" not in err
