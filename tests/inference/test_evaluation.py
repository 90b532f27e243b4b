"""Evaluation from a checkpoint alone: figures of the run, views, predictions, submissions."""

import dataclasses
import json
import logging
import os
import socket
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from rstg_jax import cli, data, evaluate, predict
from rstg_jax.errors import UserError
from rstg_jax.inference import class_metrics, evaluation, video_input
from rstg_jax.models import classifier
from rstg_jax.training import eval_loop, logs, train_loop, trained_model
from tests import clip_files, standin_evaluate, standins

ROOT = Path(__file__).parents[2]


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
    with pytest.raises(UserError, match=r"--step=best is for --workdir: --weights have no steps"):
        evaluate.main(["--weights=sync_mnist/demo", "--step=best"])
    with pytest.raises(UserError, match=r"nowhere/x\.csv: there is no such directory"):
        evaluate.main([f"--workdir={workdir}", "--submission=nowhere/x.csv"])
    with pytest.raises(UserError, match=r"--out=.*config\.json: is a file, not"):
        evaluate.main([f"--workdir={workdir}", f"--out={workdir / 'config.json'}"])
    standins.install(monkeypatch, test=standins.Source("test", classes=6))
    with pytest.raises(UserError, match=r"stripes test has 6 labels.*the checkpoint has 7"):
        evaluate.main([f"--workdir={workdir}"])
    monkeypatch.setattr("sys.argv", ["evaluate", "--workdir=nowhere"])
    assert cli.run(evaluate.main) == 2
    err = capsys.readouterr().err
    assert (
        err.startswith(f"error: no checkpoint in {Path.cwd() / 'nowhere'}:")
        and "Traceback" not in err
    )


def test_predictions_are_those_of_single_videos(workdir):
    """Thirty-seven videos in batches of 64 on 8 devices: padding is nobody's prediction."""
    flags = ["--config.train.eval_batch_size=64", "--config.mesh.data=8"]
    assert evaluate.main([f"--workdir={workdir}", *flags]) == 0
    predictions = json.loads((workdir / "predictions-test-last.json").read_text())
    assert list(predictions) == [str(index) for index in range(37)]
    loaded, source = trained_model.load(workdir), standins.Source("test")
    apply = jax.jit(lambda video: loaded.module.apply(loaded.variables, video, train=False)[0][0])
    for index in (0, 17, 36):
        p = jax.nn.softmax(apply(source.batch(np.array([index]))["video"]))
        expected = np.argsort(-np.asarray(p), kind="stable")[:5]
        got = predictions[str(index)]
        assert [x["label"] for x in got] == ["abcdefg"[label] for label in expected]
        np.testing.assert_allclose([x["probability"] for x in got], p[expected], rtol=1e-5)


def test_two_processes_give_the_files_of_one(workdir, monkeypatch):
    def read():
        text = (workdir / "answers.csv").read_text()
        names = ("evaluation-test-last.json", "predictions-test-last.json")
        return [json.loads((workdir / name).read_text()) for name in names], text

    submission = [f"--submission={workdir / 'answers.csv'}", "--submission_labels=names"]
    with monkeypatch.context() as alone:
        standins.install(alone, test=standin_evaluate.Named("test"))
        assert evaluate.main([f"--workdir={workdir}", *submission]) == 0
    (evaluation, predictions), text = read()
    for path in workdir.glob("*-test-last.json"):
        path.unlink()
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    flags = [f"--coordinator={address}", "--num_processes=2", *submission]
    processes = [launch(workdir, *flags, f"--process_id={i}") for i in range(2)]
    for process in processes:
        _, err = process.communicate(timeout=900)
        assert process.returncode == 0, err
    (evaluation2, predictions2), text2 = read()

    assert list(predictions2) == [f"{'v' * (1 + i // 4)}{i}" for i in range(37)]
    for name, best in predictions.items():
        assert [x["label"] for x in best] == [x["label"] for x in predictions2[name]]
    assert evaluation["confusion"] == evaluation2["confusion"]
    assert evaluation["loss"] == pytest.approx(evaluation2["loss"], rel=1e-5)
    assert text == text2
    assert text.splitlines() == [
        ";".join([name, *(x["label"] for x in best)]) for name, best in predictions.items()
    ]


def launch(workdir, *flags):
    two = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"  # the last is used
    environment = os.environ | {"XLA_FLAGS": two}
    command = [sys.executable, "-m", "tests.standin_evaluate", f"--workdir={workdir}", *flags]
    command += ["--config.mesh.data=-1", "--config.train.eval_batch_size=8"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


class Unlabelled(standins.Source):
    labelled = False

    def batch(self, indices):
        return super().batch(indices) | {"label": np.full(len(indices), -1, np.int32)}


def test_a_split_without_labels_gives_predictions_only(workdir, monkeypatch, tmp_path, capsys):
    assert evaluate.main([f"--workdir={workdir}"]) == 0
    expected = json.loads((workdir / "predictions-test-last.json").read_text())
    for path in workdir.glob("*-test-last.*"):
        path.unlink()
    standins.install(monkeypatch, test=Unlabelled("test"))
    assert evaluate.main([f"--workdir={workdir}"]) == 0
    assert json.loads((workdir / "predictions-test-last.json").read_text()) == expected
    assert [p.name for p in workdir.glob("*-test-last.*")] == ["predictions-test-last.json"]
    assert "37 videos without labels: predictions only" in capsys.readouterr().out
    with pytest.raises(UserError, match="has no labels to test on: set data"):
        train_loop.train(standins.experiment(), tmp_path / "other")


# --- views ----------------------------------------------------------------------------------------


LABELS = ("left", "other", "right")


@pytest.fixture
def films(tmp_path, monkeypatch):
    """Nine films of the three LABELS, of different sizes, and a run of two steps on them."""
    for number in range(9):
        path = tmp_path / "films" / LABELS[number % 3] / f"{number}.webm"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = ((64, 48), (48, 80), (72, 40))[number // 3]
        path.write_bytes(clip_files.film(clip_files.pictures(4 + 3 * number, *size, seed=number)))
    monkeypatch.setattr(classifier, "build", lambda config, classes: standins.Model(classes))
    clip = data.ClipConfig(frames=4, resize=40, crop=32)
    settings = data.FolderConfig(
        str(tmp_path / "films"), test_path=str(tmp_path / "films"), clip=clip, workers=1
    )
    experiment = standins.experiment(total_steps=2, eval_every=2, eval_batch_size=4)
    train_loop.train(dataclasses.replace(experiment, data=settings), tmp_path / "run")
    return tmp_path


@pytest.mark.parametrize(("devices", "protocol"), [(1, "3x2"), (8, "3x2"), (1, "tsn")])
def test_views_are_averaged_as_a_plain_loop_would(films, devices, protocol, capsys):
    """In mirrored views left is right."""
    run, paths = films / "run", sorted((films / "films").glob("*/*"))
    flags = [f"--workdir={run}", f"--protocol={protocol}"]
    assert evaluate.main([*flags, f"--config.mesh.data={devices}"]) == 0
    predictions = json.loads((run / f"predictions-test-last-{protocol}.json").read_text())
    result = json.loads((run / f"evaluation-test-last-{protocol}.json").read_text())
    assert result["protocol"] == protocol and result["examples"] == 9

    loaded = trained_model.load(run)
    settings = loaded.data.with_protocol(protocol)
    confusion, loss = np.zeros((3, 3), int), 0.0
    apply = jax.jit(lambda video: loaded.module.apply(loaded.variables, video, train=False)[0][0])
    for path in paths:
        views = video_input.read(path, settings)
        assert views.shape == (10 if protocol == "tsn" else 6, 4, 32, 32, 3)
        one_by_one = np.array([apply(view[None]) for view in views])
        assert np.std(one_by_one, axis=0).max() > 1e-3  # the views do differ
        if protocol == "tsn":
            as_they_are = np.mean(one_by_one, axis=0)
            one_by_one[1::2] = one_by_one[1::2, ::-1]
            assert np.abs(np.mean(one_by_one, axis=0) - as_they_are).max() > 1e-3
        logits = np.mean(one_by_one, axis=0)
        p, truth = np.asarray(jax.nn.softmax(logits)), LABELS.index(path.parent.name)
        got = {x["label"]: x["probability"] for x in predictions[f"{path.parent.name}/{path.name}"]}
        np.testing.assert_allclose([got[name] for name in LABELS], p, rtol=1e-5)
        confusion[truth, logits.argmax()] += 1
        loss -= np.log(p[truth]) / 9
    assert result["confusion"] == confusion.tolist()
    assert result["top1"] == pytest.approx(np.trace(confusion) / 9)
    assert result["loss"] == pytest.approx(loss, rel=1e-5)

    if protocol == "tsn":  # and so does the test of a training
        train_loop.train(dataclasses.replace(loaded.experiment, data=settings), films / "again")
        trained = json.loads((films / "again" / "result.json").read_text())
        assert trained["loss"] == pytest.approx(result["loss"], rel=1e-5)

    if devices == 1:  # and predict says the same of the same files
        capsys.readouterr()
        assert predict.main([*flags, "--json", str(films / "films"), "test:2"]) == 0
        records = json.loads(capsys.readouterr().out)
        assert [record["video"] for record in records] == [*map(str, paths), "test:2"]
        for path, record in zip([*paths, paths[2]], records, strict=True):
            same = predictions[f"{path.parent.name}/{path.name}"]
            assert [x["label"] for x in record["predictions"]] == [x["label"] for x in same]
            np.testing.assert_allclose(
                [x["probability"] for x in record["predictions"]],
                [x["probability"] for x in same],
                rtol=1e-5,
            )
        assert (records[-1]["id"], records[-1]["truth"]) == ("left/6.webm", "left")
        # Drawn is the film itself, 22 frames, not what the network sees of it.
        assert predict.main([*flags, "test:2", f"--visualise={films / 'drawn.webm'}"]) == 0
        assert len(clip_files.decode_all(films / "drawn.webm")) == 22


def test_a_protocol_that_the_model_cannot_take_is_said_before_any_work(films, monkeypatch):
    """The stand-in's weights fit one size; dense crops are as high as the frame, 40 pixels."""
    monkeypatch.setattr(eval_loop, "run", None)
    message = r"trained on clips of 4 frames of 32x32 and cannot take the 4 frames of 40x40 of the"
    for main in (evaluate.main, lambda argv: predict.main([*argv, "test:0"])):
        with pytest.raises(UserError, match=message):
            main([f"--workdir={films / 'run'}", "--protocol=dense"])


def test_protocols_and_their_names():
    clip = data.ClipConfig(resize=256, crop=224, sampling="segments")
    for given, wanted in {
        "center": (1, 1, None),
        "dense": (11, 2, 256),
        "11x2": (11, 2, None),
        "3x1": (3, 1, None),
        "3x10-256": (3, 10, 256),
        "tsm": (3, 2, 256),
        "3x2-starts": (3, 2, None),
        "1x2-192-starts": (1, 2, 192),
        "tsn": (10, 1, None),
        "5x1-corners": (5, 1, None),
        "10x1-256-corners": (10, 1, 256),
        "10x2-corners-starts": (10, 2, None),
    }.items():
        chosen = data.FolderConfig(clip=clip).with_protocol(given)
        views = (chosen.clip.spatial_views, chosen.clip.temporal_views, chosen.clip.view_size)
        assert views == wanted
        assert chosen.protocol == given
        starts = given == "tsm" or given.endswith("starts")
        assert chosen.clip.view_places == ("starts" if starts else "even")
        corners = given == "tsn" or "corners" in given
        assert chosen.clip.crop_places == ("corners" if corners else "even")
        assert chosen.single_view() == data.FolderConfig(clip=clip)
    small = data.FolderConfig(clip=data.ClipConfig(resize=128, crop=112))
    assert small.with_protocol("dense").clip.view_size == 128
    odd = data.FolderConfig(clip=dataclasses.replace(clip, spatial_views=3, view_size=240))
    assert odd.protocol == "3x1-240"
    assert data.SyncMNISTConfig().protocol == ""
    for wrong in ("3x0", "full", "3", "x2", "3x2-0", "3x2-corners", "5x1-corner", "10x-corners"):
        with pytest.raises(
            UserError, match=f"={wrong}: choose center, dense, tsm, tsn, NxM .*5xM-"
        ):
            small.with_protocol(wrong)
    strided = data.FolderConfig(clip=data.ClipConfig(sampling="stride"))
    with pytest.raises(UserError, match=r"protocol=tsm needs .*sampling=segments, here it"):
        strided.with_protocol("tsm")
    with pytest.raises(UserError, match="protocol=center: videos of SyncMNISTConfig are seen once"):
        data.SyncMNISTConfig().with_protocol("center")


def test_splits_have_the_names_of_their_data_set():
    official = data.SomethingSomethingConfig(version="v1")
    assert official.with_split(None) == (official, "test", "validation")
    tested = dataclasses.replace(official, test_split="test")
    assert official.with_split("test") == (tested, "test", "test")
    assert tested.with_split("validation") == (official, "test", "validation")
    assert tested.with_split("train") == (tested, "train", "train")
    folder = data.FolderConfig("a")
    assert folder.with_split(None) == (folder, "test", "test")
    with pytest.raises(UserError, match="no validation split in these data: choose train or test"):
        folder.with_split("validation")


# --- tables ---------------------------------------------------------------------------------------

NAMES = ("lift", "drop", "push|pull", "never")
CONFUSION = np.array([[5, 1, 3, 0], [0, 4, 0, 0], [2, 2, 1, 0], [0, 0, 0, 0]])


def test_figures_of_every_class_are_those_counted_by_hand():
    rows = class_metrics.per_class(CONFUSION, NAMES)
    assert [list(row.values()) for row in rows] == [
        [0, "lift", 9, 5 / 9, "push|pull", 3],
        [1, "drop", 4, 1.0, None, 0],
        [2, "push|pull", 5, 0.2, "lift", 2],
        [3, "never", 0, None, None, 0],
    ]
    pairs = class_metrics.confusions(CONFUSION, NAMES)
    assert [tuple(pair.values()) for pair in pairs] == [
        ("lift", "push|pull", 3),
        ("push|pull", "lift", 2),
        ("push|pull", "drop", 2),
        ("lift", "drop", 1),
    ]
    assert sum(pair["count"] for pair in pairs) == CONFUSION.sum() - np.trace(CONFUSION)
    result = {"examples": 18, "loss": 1.5, "top1": 10 / 18, "top5": 1.0}
    text = class_metrics.markdown(result | {"classes": rows, "confusions": pairs}, "title")
    assert "18 videos: top1 55.56%, top5 100.00%, loss 1.5" in text
    assert r"| 0 | lift | 9 | 55.6% | push\|pull (3) |" in text.splitlines()
    assert "| 3 | never | 0 |  |  |" in text.splitlines()
    assert text.splitlines()[-4:][0] == r"| 3 | lift | push\|pull |"


def test_names_of_files_may_contain_dots(tmp_path):
    """As those of weights such as model.v2.safetensors, of which the stem is a part."""
    rows = class_metrics.per_class(CONFUSION, NAMES)
    result = {"examples": 1, "loss": 1.5, "top1": 1.0, "classes": rows, "label_names": NAMES}
    predictions = eval_loop.Predictions(["0"], np.zeros((1, 1), int), np.ones((1, 1)))
    stems = ("test-model.v1-dense", "test-model.v2-dense")
    for stem in stems:
        evaluation.write(tmp_path, stem, stem, result, predictions)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        name
        for stem in stems
        for name in (f"evaluation-{stem}.json", f"evaluation-{stem}.md", f"predictions-{stem}.json")
    )


def test_submission_lines():
    labels = np.array([[3, 0, 1, 2, 4], [1, 4, 0, 2, 3]])
    names = ("b", "a; or not", "d", "c", "e")
    assert class_metrics.submission(["7", "12"], labels, names, None) == (
        '7;c;b;"a; or not";d;e\n12;"a; or not";e;b;d;c\n'
    )
    numbers = {"a; or not": 0, "b": 10, "c": 20, "d": 30, "e": 40}
    text = class_metrics.submission(["7", "12"], labels, names, numbers)
    assert text == "7;20;10;0;30;40\n12;0;40;10;30;20\n"


def test_submission_numbers_are_those_of_the_data_sets_own_file(monkeypatch):
    def opened(config, split):
        assert (config.test_split, config.label_order, split) == ("test", "file", "test")
        return types.SimpleNamespace(label_names=("c", "a", "b"))

    monkeypatch.setattr(data.SomethingSomethingConfig, "open", opened)
    settings = data.SomethingSomethingConfig(version="v1", label_order="sorted")
    assert evaluation.submission_numbers(settings, "test") == {"c": 0, "a": 1, "b": 2}


def test_long_evaluations_say_how_long_they_will_take(monkeypatch, caplog):
    now = iter([0.0, 30.0, 61.0, 100.0, 122.0, 244.0])
    monkeypatch.setattr(logs.time, "monotonic", lambda: next(now))
    with caplog.at_level(logging.INFO, "rstg_jax"), logs.Meter(400, "videos") as meter:
        for count in (50, 50, 50, 50, 200):
            meter.advance(count)
    assert caplog.messages == [
        "100/400 videos  1.6/s  ETA 03:03",
        "200/400 videos  1.6/s  ETA 02:02",
    ]
