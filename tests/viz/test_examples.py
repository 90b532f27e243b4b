import base64
import io
import json
import re

import flax.linen as nn
import numpy as np
import pytest
from PIL import Image

from rstg_jax import cli, data, report
from rstg_jax.errors import UserError
from rstg_jax.models import classifier
from rstg_jax.rstg.block import RSTG, RSTGConfig
from rstg_jax.rstg.region_graph import RegionGraph
from rstg_jax.training import train_loop
from rstg_jax.training.experiment import Experiment, TrainConfig
from rstg_jax.training.sharding import MeshConfig
from rstg_jax.viz import examples as examples_lib
from rstg_jax.viz import html_report, panels
from tests import standins

GRAPH = RegionGraph((3, 2, 1))
NAMES = ("0-1", "0-2", "1-2", "none")
CONFIG = data.SyncMNISTConfig(num_digits=3, classes=(0, 1, 2))


class FakeSource:
    """Example i has brightness i, label i modulo 4, and corners that count up."""

    name = "fake"
    label_names = NAMES
    provenance = {"digits": "none"}

    def __init__(self, size: int):
        self.size = size

    def __len__(self) -> int:
        return self.size

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        assert indices.dtype == np.int64 and indices.max() < self.size
        video = np.broadcast_to(indices[:, None, None, None, None], (len(indices), 3, 8, 8, 1))
        coords = np.arange(3 * 3 * 2).reshape(1, 3, 3, 2).repeat(len(indices), axis=0)
        return {
            "video": video.astype(np.uint8),
            "label": (indices % 4).astype(np.int32),
            "coords": coords.astype(np.int32),
        }


def apply(video: np.ndarray) -> examples_lib.Outputs:
    """Predicts the brightness modulo 3; round k attends k + 1 times brightness, everywhere."""
    brightness = video[:, 0, 0, 0, 0].astype(float)
    rounds = np.array([1.0, 2.0, 6.0])[:, None] * brightness  # [k b]
    attention = np.broadcast_to(rounds[..., None, None, None], (*rounds.shape, 3, 14, 14))
    return examples_lib.Outputs(np.eye(4)[(brightness % 3).astype(int)], attention)


def write_run(workdir, rows: list[dict], result: dict | None = None) -> None:
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (workdir / "config.json").write_text(json.dumps({"name": "tiny"}))
    (workdir / "result.json").write_text(json.dumps(result or {"top1": 0.5}))


def test_read_record_sorts_rows_and_keeps_the_last_of_a_repeated_step(tmp_path):
    rows = [
        {"step": 10, "split": "train", "loss": 3.0},
        {"step": 20, "split": "train", "loss": 2.0},
        {"step": 20, "split": "test", "loss": 2.5},
        {"step": 10, "split": "train", "loss": 2.9},
    ]
    write_run(tmp_path, rows)
    record = html_report.read_record(tmp_path)
    assert [row["loss"] for row in record.metrics["train"]] == [2.9, 2.0]
    assert [row["loss"] for row in record.metrics["test"]] == [2.5]
    assert record.result == {"top1": 0.5}


def test_a_run_that_goes_on_is_to_be_finished_first(workdir):
    train_loop.train(standins.experiment(total_steps=30), workdir, until=25)
    with pytest.raises(UserError, match="of step 20, but training went on to step 25: finish"):
        report.main([f"--workdir={workdir}"])


@pytest.mark.parametrize("name", ["result.json", "config.json", "metrics.jsonl"])
def test_missing_file_is_named(tmp_path, name):
    write_run(tmp_path, [])
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=rf"{name} is missing: finish the training first"):
        html_report.read_record(tmp_path)


def test_damaged_files_are_named(tmp_path):
    write_run(tmp_path, [{"step": 1, "split": "train"}])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "spl')
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 2: bad json"):
        html_report.read_record(tmp_path)
    write_run(tmp_path, [{"step": 1, "split": "train"}, {"step": 2}])
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 2 is not a row of metrics"):
        html_report.read_record(tmp_path)
    write_run(tmp_path, [])
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(UserError, match=r"result\.json: line 1: bad json"):
        html_report.read_record(tmp_path)


def test_predict_examples_takes_the_first_ones_in_order():
    examples = examples_lib.predict_examples(CONFIG, FakeSource(50), apply, count=7)
    assert [int(e.video[0, 0, 0, 0]) for e in examples] == list(range(7))
    assert [e.labels for e in examples] == [(n,) for n in (0, 1, 2, 3, 0, 1, 2)]
    assert [e.predicted for e in examples] == [0, 1, 2, 0, 1, 2, 0]
    # The mean over the rounds 1, 2, 6 is three times the brightness.
    for number, example in enumerate(examples):
        np.testing.assert_array_equal(example.attention, np.full((3, 14, 14), 3.0 * number))


def test_long_clips_are_thinned_and_meet_the_attention_of_their_pooled_frames():
    class Long(FakeSource):
        def batch(self, indices):
            video = np.arange(32, dtype=np.uint8).reshape(1, 32, 1, 1, 1).repeat(len(indices), 0)
            return {"video": video, "label": np.zeros(len(indices), np.int32)}

    def pooled(video):
        """Sixteen frames of attention: round k of frame t attends t + 2 k."""
        weights = np.arange(16)[None] + 2 * np.arange(2)[:, None]  # [k t]
        weights = np.broadcast_to(weights[:, None, :, None, None], (2, len(video), 16, 14, 14))
        return examples_lib.Outputs(np.eye(4)[[0] * len(video)], weights)

    (example,) = examples_lib.predict_examples(CONFIG, Long(1), pooled, count=1)
    shown = example.video[:, 0, 0, 0].astype(int)
    assert len(shown) == 16 and (shown[0], shown[-1]) == (0, 31) and (np.diff(shown) >= 2).all()
    np.testing.assert_array_equal(example.attention[:, 3, 5], shown // 2 + 1)


def test_predict_examples_stops_at_the_end_of_a_small_split():
    assert len(examples_lib.predict_examples(CONFIG, FakeSource(5), apply, count=12)) == 5
    assert examples_lib.predict_examples(CONFIG, FakeSource(5), apply, count=0) == []


def test_boxes_of_the_pair_are_fractions_of_the_canvas():
    examples = examples_lib.predict_examples(CONFIG, FakeSource(4), apply, count=4)
    # Frame 1: the first two of three digits have corners (6, 7) and (8, 9) on a canvas of 100.
    expected = [[0.06, 0.07, 0.34, 0.35], [0.08, 0.09, 0.36, 0.37]]
    np.testing.assert_allclose(examples[0].pair_boxes[1], expected, atol=1e-6)
    assert examples[3].pair_boxes is None  # its label is "none"


def test_picture_is_written(tmp_path):
    examples = examples_lib.predict_examples(CONFIG, FakeSource(4), apply, count=4)
    path = tmp_path / "docs" / "picture.png"
    panels.write_picture(path, examples, GRAPH, NAMES)
    with Image.open(path) as image:
        rows, columns = panels.PICTURE_EXAMPLES, 3  # frames
        assert image.size == (columns * (180 + 6) + 18, rows * (180 + 46) + 12)
    with pytest.raises(UserError, match=r"must end in \.png"):
        panels.write_picture(tmp_path / "picture.jpg", examples, GRAPH, NAMES)
    with pytest.raises(UserError, match="there are no examples to draw"):
        panels.write_picture(path, [], GRAPH, NAMES)
    with pytest.raises(UserError, match=r"picture\.png: is a file, not a directory"):
        panels.write_picture(path / "inside.png", examples, GRAPH, NAMES)


class Network(nn.Module):
    """One RSTG block over the pixels."""

    classes: int

    @nn.compact
    def __call__(self, video, train: bool = False):
        block = RSTG(RSTGConfig(dim=8, stages=("time", "space", "space", "time")))
        nodes, attention = block(video.astype(np.float32) / 255, train=train)
        frames = nn.Dense(self.classes)(nodes.sum(2))  # [b t classes]
        return frames.mean(1), {"frame_logits": frames, "attention": attention}


@pytest.mark.slow
def test_report_of_a_real_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(classifier, "build", lambda config, classes: Network(classes))
    experiment = Experiment(
        name="tiny",
        train=TrainConfig(total_steps=4, batch_size=8, log_every=1, eval_every=2),
        data=data.SyncMNISTConfig(
            test_source="online",
            num_digits=3,
            classes=(0, 1, 2, 3),
            num_frames=3,
            frame_size=16,
            num_test=24,
        ),
        mesh=MeshConfig(data=1),
    )
    result = train_loop.train(experiment, tmp_path)
    picture = tmp_path / "picture.png"
    assert report.main([f"--workdir={tmp_path}", "--examples=20", f"--picture={picture}"]) == 0
    assert f"report: {tmp_path / 'report.html'}" in capsys.readouterr().out

    markup = (tmp_path / "report.html").read_text()
    assert f"tiny: {result['top1']:.1%} test accuracy" in markup
    assert ">24</div>" in markup  # test videos
    sources = re.findall(r'src="data:image/webp;base64,([^"]+)"', markup)
    assert len(sources) == 20
    with Image.open(io.BytesIO(base64.b64decode(sources[0]))) as image:
        assert image.n_frames == 3
    assert picture.stat().st_size > 0
    # The predictions shown are those that the evaluation counted: 20 of the 24 test videos.
    predicted = re.findall(r"predicted <b[^>]*>([^<]+)</b>.*?truth <b>([^<]+)</b>", markup, re.S)
    names = result["label_names"]
    shown = np.zeros((len(names), len(names)), int)
    for prediction, truth in predicted:
        shown[names.index(truth), names.index(prediction)] += 1
    assert shown.sum() == 20
    assert (shown <= np.array(result["confusion"])).all()


def test_unfinished_run_is_one_clear_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["report", f"--workdir={tmp_path}"])
    assert cli.run(report.main) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "is missing: finish the training first" in error
    assert "Traceback" not in error
