"""Something-Something as a user meets it: download, preparation, training, testing, labelling."""

import csv
import json

import pytest

import train
from rstg_jax import evaluate, predict
from tfds_builders.something_something import build, make_demo
from tfds_builders.something_something.demo_actions import ACTIONS

NAMES = [action.name for action in ACTIONS]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A drawn download and a run of `configs/smt.py:tiny` on it, films kept as they are."""
    root = tmp_path_factory.mktemp("smt")
    make_demo.make_demo(root / "download", clips=24, height=48)
    places = [f"--manual_dir={root / 'download'}", f"--data_dir={root / 'data'}"]
    build.main(["--config=v2_demo", "--store=video", *places])
    words = ["--config=configs/smt.py:tiny", f"--workdir={root / 'run'}", "--config.mesh.data=1"]
    words += [f"--config.data.data_dir={root / 'data'}", "--config.data.version=v2_demo-video"]
    assert train.main(words) == 0
    return root


def read(path):
    return json.loads(path.read_text())


def test_result_is_of_the_last_step(run):
    result = read(run / "run" / "result.json")
    assert (result["steps"], result["examples"], result["label_names"]) == (4, 12, NAMES)
    assert evaluate.main([f"--workdir={run / 'run'}"]) == 0
    again = read(run / "run" / "evaluation-validation-last-center.json")
    assert again["top1"] == result["top1"]
    assert again["loss"] == pytest.approx(result["loss"], rel=1e-5)


def test_predict_labels_the_downloaded_films_alike(run, capsys):
    """What the prepared data's tests say of a clip is what `predict` says of its file."""
    films = run / "download" / "20bn-something-something-v2"
    assert evaluate.main([f"--workdir={run / 'run'}", "--protocol=2x3"]) == 0
    wanted = read(run / "run" / "predictions-validation-last-2x3.json")
    files = {number: str(films / f"{number}.webm") for number in wanted}
    capsys.readouterr()
    words = [f"--workdir={run / 'run'}", "--protocol=2x3", "--json", *files.values()]
    assert predict.main(words) == 0
    for number, record in zip(files, json.loads(capsys.readouterr().out), strict=True):
        for one, other in zip(record["predictions"], wanted[number], strict=True):
            assert one["probability"] == pytest.approx(other["probability"], rel=1e-4)


def test_submission_has_every_clip_of_the_test_split(run, tmp_path):
    file = tmp_path / "submission.csv"
    words = [f"--workdir={run / 'run'}", "--split=test", f"--submission={file}"]
    assert evaluate.main([*words, "--submission_labels=names"]) == 0
    lines = file.read_text().splitlines()
    rows = {row[0]: row[1:] for row in csv.reader(lines, delimiter=";")}
    listed = read(run / "download" / "labels" / "test.json")
    assert sorted(rows) == sorted(entry["id"] for entry in listed)
    assert all(set(labels) <= set(NAMES) for labels in rows.values())
