"""Videos with any number of labels, from training to the report."""

import json
import shutil

import jax
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

import train
from rstg_jax import cli, config, data, evaluate, predict, report, verify
from rstg_jax.errors import UserError
from rstg_jax.training import train_loop, trained_model
from tests import standins

CLASSES = 7


class Stripes(standins.Source):
    """Bright stripes; their rows are the labels. Every fifth video has none, the last class too."""

    def batch(self, indices):
        batch = super().batch(indices)
        batch["label"] = np.eye(CLASSES, dtype=np.int32)[batch["label"]]
        for row, index in enumerate(indices):
            if index % 5 == 0:
                batch["label"][row], batch["video"][row] = 0, 0
            elif index % 2:
                batch["label"][row, 2], batch["video"][row, :, 8:12] = 1, 200
        batch["label"][:, -1] = 0
        return batch


def install(monkeypatch):
    standins.install(monkeypatch, Stripes(size=data.ENDLESS), Stripes("test"))
    monkeypatch.setattr(data.SyncMNISTConfig, "multi_label", True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 20 steps."""
    workdir = tmp_path_factory.mktemp("multi_label") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        install(monkeypatch)
        train_loop.train(standins.experiment(loss="sigmoid"), workdir)
    return workdir


@pytest.fixture
def workdir(tmp_path, trained, monkeypatch):
    install(monkeypatch)
    return shutil.copytree(trained, tmp_path / "run")


def scores(workdir):
    """Logits and labels of the test split, video by video."""
    model, source = trained_model.load(workdir), Stripes("test")
    batches = [source.batch(np.array([i])) for i in range(len(source))]
    apply = jax.jit(lambda video: model.module.apply(model.variables, video, train=False)[0])
    logits = [apply(batch["video"]) for batch in batches]
    return np.concatenate(logits), np.concatenate([batch["label"] for batch in batches])


def test_a_run_is_tested_by_mean_average_precision(workdir, capsys):
    result = json.loads((workdir / "result.json").read_text())
    logits, labels = scores(workdir)
    each = [average_precision_score(labels[:, c], logits[:, c]) for c in range(CLASSES - 1)]
    assert result["average_precision"] == [*(pytest.approx(x, rel=1e-5) for x in each), None]
    assert result["mAP"] == pytest.approx(np.mean(each), rel=1e-5)
    assert result["positives"] == labels.sum(0).tolist()
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    tests = {row["step"]: row["mAP"] for row in rows if row["split"] == "test"}
    assert tests[20] == result["mAP"] and max(tests.values()) == result["best"]["mAP"]
    best = max(tests, key=lambda step: (tests[step], step))
    assert result["best"]["step"] == best
    flags = ["--config.train.eval_batch_size=16", "--config.mesh.data=4"]
    assert evaluate.main([f"--workdir={workdir}", *flags]) == 0
    again = json.loads((workdir / "evaluation-test-last.json").read_text())
    assert again["mAP"] == pytest.approx(result["mAP"], rel=1e-5)
    assert [row["examples"] for row in again["classes"]] == result["positives"]
    page = (workdir / "evaluation-test-last.md").read_text()
    assert f"37 videos: mAP {again['mAP']:.2%}, top1" in page
    assert f"| 2 | c | {result['positives'][2]} | {each[2]:.1%} |" in page.splitlines()
    assert "| 6 | g | 0 |  |" in page.splitlines() and "mistakes" not in page
    assert f"mAP       {again['mAP']:>9.2%}" in capsys.readouterr().out


def test_predictions_have_a_probability_for_each_label(workdir, capsys):
    assert predict.main([f"--workdir={workdir}", "--json", "test:1-6"]) == 0
    logits, labels = scores(workdir)
    for number, record in enumerate(json.loads(capsys.readouterr().out), start=1):
        probabilities = jax.nn.sigmoid(logits[number])
        order = np.argsort(-probabilities)[:5]
        assert [p["label"] for p in record["predictions"]] == ["abcdefg"[k] for k in order]
        got = [p["probability"] for p in record["predictions"]]
        np.testing.assert_allclose(got, probabilities[order], rtol=1e-5)
        assert abs(sum(jax.nn.softmax(logits[number])[order]) - sum(got)) > 0.1
        assert record["truth"] == ["abcdefg"[k] for k in np.flatnonzero(labels[number])]


def test_right_is_what_top1_counts(workdir, capsys):
    """Any of the labels of a video; none is right where there is none."""
    result = json.loads((workdir / "result.json").read_text())
    logits, labels = scores(workdir)
    assert predict.main([f"--workdir={workdir}", "test:0-36"]) == 0
    lines = capsys.readouterr().out.splitlines()
    right = ["  (right" in line for line in lines]
    assert np.mean(right) == result["top1"]
    best = logits.argmax(1)
    only = labels[np.arange(37), best] * (labels.sum(1) == 1)
    assert only.sum() < sum(right) < 37  # videos with this label alone would be another share
    for line, row, first in zip(lines, labels, best, strict=True):
        truth = "truth: " + (", ".join("abcdefg"[k] for k in np.flatnonzero(row)) or "none")
        marks = {1: "right", 0: truth} if row.sum() < 2 else {1: f"right; {truth}", 0: truth}
        assert line.endswith(f"  ({marks[int(row[first])]})")


def test_reports_and_verifies(workdir, capsys):
    assert report.main([f"--workdir={workdir}", "--examples=6"]) == 0
    page = (workdir / "report.html").read_text()
    result = json.loads((workdir / "result.json").read_text())
    assert f"stand-in: {result['mAP']:.1%} test mAP" in page
    assert "Confusion matrix" not in page and "of 6 classes with test videos" in page
    assert page.count("<td>") and "truth <b>none</b>" in page
    capsys.readouterr()
    assert verify.main([f"--workdir={workdir}", "--test"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "all: identical"


def test_submissions_are_refused(workdir, tmp_path):
    with pytest.raises(UserError, match="--submission: is for videos with one label each"):
        evaluate.main([f"--workdir={workdir}", f"--submission={tmp_path / 'x.csv'}"])


def test_labels_that_are_neither_0_nor_1_are_refused():
    class Twice(Stripes):
        def batch(self, indices):
            batch = super().batch(indices)
            return batch | {"label": 2 * batch["label"]}

    with pytest.raises(UserError, match="example 1 has label 2, but labels go from 0 to 1"):
        data.checked_batch(Twice(), np.arange(5))


def test_loss_and_data_must_fit(monkeypatch, capsys):
    install(monkeypatch)
    words = ["--config=configs/sync_mnist.py:demo", "--workdir=nowhere"]
    monkeypatch.setattr("sys.argv", ["train", *words])
    assert cli.run(train.main) == 2
    assert "set loss.kind=sigmoid: videos of these data have any number of" in (
        capsys.readouterr().err
    )
    experiment = standins.experiment(loss="sigmoid")
    for average in ("logits", "max"):
        config.override(experiment, {"model.view_average": average})
    with pytest.raises(UserError, match=r"=softmax needs loss\.kind=softmax; set logits or max"):
        config.override(experiment, {"model.view_average": "softmax"})
    monkeypatch.setattr(data.SyncMNISTConfig, "multi_label", False)
    monkeypatch.setattr("sys.argv", ["train", *words, "--config.loss.kind=sigmoid"])
    assert cli.run(train.main) == 2
    assert "set loss.kind=softmax: videos of these data have exactly one" in capsys.readouterr().err
