"""A data set and a backbone of one's own, defined outside the package, through every command."""

import dataclasses
import json
from collections.abc import Mapping
from typing import ClassVar

import jax
import numpy as np
import pytest
from flax import linen as nn

import rstg_jax
import train
from rstg_jax import evaluate, predict, report, summary
from rstg_jax.convert import export
from rstg_jax.data import DataConfig
from rstg_jax.models.backbones import BackboneConfig
from rstg_jax.training import weights_file
from rstg_jax.viz import output_files

NAMES = ("rows", "columns", "plain")
CONFIG = """
from rstg_jax.models.config import ModelConfig
from rstg_jax.rstg import presets
from rstg_jax.training.experiment import Experiment, TrainConfig
from rstg_jax.training.optim import OptimizerConfig
from tests.test_extension import BarsConfig, TilesConfig

def get_config(variant=""):
    return Experiment(
        name="extension",
        train=TrainConfig(total_steps=40, batch_size=8, log_every=10, eval_every=20),
        model=ModelConfig(
            backbone=TilesConfig(tile=4),
            rstg=presets.modern(dim=8, scales=(2,), stages=("space", "time")),
        ),
        data=BarsConfig(size=16, where="here"),
        optim=OptimizerConfig(learning_rate=1e-2),
    )
"""


@dataclasses.dataclass(frozen=True)
class BarsConfig(DataConfig):
    """Frames with bright rows, with bright columns, or of one colour."""

    may_differ: ClassVar[tuple[str, ...]] = ("where", "files")

    size: int = 16
    where: str = ""
    files: tuple[str, ...] = dataclasses.field(default_factory=tuple)
    num_test: int = 12

    @property
    def clip_shape(self):
        return (4, self.size, self.size, 3)

    @property
    def num_classes(self):
        return len(NAMES)

    def open(self, split):
        return Bars(self, split)


class Bars:
    """The split of a `BarsConfig`."""

    label_names = NAMES

    def __init__(self, config, split):
        self.config, self.split = config, split
        self.name, self.provenance = f"bars {split}", {"videos_from": "a test", "split": split}

    def __len__(self):
        return 48 if self.split == "train" else self.config.num_test

    def batch(self, indices):
        labels = (indices % 3).astype(np.int32)
        videos = np.full((len(indices), *self.config.clip_shape), 30, np.uint8)
        for video, index, label in zip(videos, indices, labels, strict=True):
            bright = 150 + 10 * (index // 3 % 8)
            if label == 0:
                video[:, ::2] = bright
            elif label == 1:
                video[:, :, ::2] = bright
        return {"video": videos, "label": labels}


@dataclasses.dataclass(frozen=True)
class TilesConfig(BackboneConfig):
    """A linear layer on the pixels of each tile."""

    tile: int = 4
    features: int = 8

    @property
    def places(self):
        return ("tiles",)

    def resolve(self, place):
        return place

    def build(self, dtype, name):
        return Tiles(self, dtype, name=name)


class Tiles(nn.Module):
    """The module of a `TilesConfig`."""

    config: TilesConfig
    dtype: np.dtype

    @nn.compact
    def __call__(self, video, *, train=False, after: Mapping = {}):
        b, t, h, w, c = video.shape
        k = self.config.tile
        x = (video.astype(self.dtype) / 100).reshape(b, t, h // k, k, w // k, k, c)
        x = x.transpose(0, 1, 2, 4, 3, 5, 6).reshape(b, t, h // k, w // k, k * k * c)
        x = nn.Dense(self.config.features, dtype=self.dtype, name="tiles")(x)
        return after["tiles"](x) if "tiles" in after else x


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of a finished run."""
    root = tmp_path_factory.mktemp("extension")
    (root / "bars.py").write_text(CONFIG)
    workdir = root / "run"
    flags = [f"--config={root / 'bars.py'}", f"--workdir={workdir}", "--config.mesh.data=1"]
    assert train.main(flags) == 0
    return root, workdir, flags


def test_training_learns_and_resumes(run, capsys):
    _, workdir, flags = run
    result = json.loads((workdir / "result.json").read_text())
    assert result["top1"] == 1.0 and result["examples"] == 12  # chance is 1 in 3
    stored = json.loads((workdir / "config.json").read_text())
    assert stored["data"]["class"] == "BarsConfig"
    assert stored["model"]["backbone"] == {"class": "TilesConfig", "tile": 4, "features": 8}
    # The data set says which of its fields may differ.
    assert train.main([*flags, "--config.data.where=there", "--config.train.total_steps=42"]) == 0
    assert json.loads((workdir / "result.json").read_text())["steps"] == 42
    with pytest.raises(ValueError, match=r"data\.num_test: 12 != 13"):
        train.main([*flags, "--config.data.num_test=13", "--config.train.total_steps=42"])


def test_evaluation_gives_the_metrics_of_the_run(run):
    _, workdir, _ = run
    assert evaluate.main([f"--workdir={workdir}"]) == 0
    result = json.loads((workdir / "result.json").read_text())
    written = json.loads((workdir / "evaluation-test-last.json").read_text())
    for name in ("loss", "top1", "confusion", "label_names"):
        assert written[name] == result[name]
    with pytest.raises(ValueError, match="protocol=dense: videos of BarsConfig are seen once"):
        evaluate.main([f"--workdir={workdir}", "--protocol=dense"])


def test_prediction_of_a_file_and_of_examples(run, capsys):
    root, workdir, _ = run
    batch = Bars(BarsConfig(), "test").batch(np.arange(4))
    np.save(root / "video.npy", batch["video"][1])
    video, drawn = str(root / "video.npy"), root / "drawn"
    argv = [f"--workdir={workdir}", "--json", video, "test:0-3", f"--visualise={drawn}"]
    assert predict.main(argv) == 0
    records = json.loads(capsys.readouterr().out)
    assert [r["video"] for r in records] == [video, "test:0", "test:1", "test:2", "test:3"]
    assert [r["truth"] for r in records[1:]] == ["rows", "columns", "plain", "rows"]
    assert records[0]["predictions"] == records[2]["predictions"]  # the same video
    assert records[0]["predictions"][0]["label"] == "columns"
    drawings = {file.name for file in drawn.iterdir()} - {"index.html", output_files.INDEX}
    assert len(drawings) == 5
    page = (drawn / "index.html").read_text()
    assert all(f'src="{name}"' in page for name in drawings)


def test_exported_weights_have_no_places(run):
    root, workdir, _ = run
    out = root / "bars.safetensors"
    argv = ["--import=tests.test_extension", f"--workdir={workdir}", f"--out={out}"]
    assert export.main([*argv]) == 0
    model, variables, labels = rstg_jax.load(out)
    assert labels == NAMES
    assert weights_file.read(out).experiment.data == BarsConfig()
    batch = Bars(BarsConfig(), "test").batch(np.arange(12))
    logits = jax.jit(model.apply)(variables, batch["video"])[0]
    np.testing.assert_array_equal(logits.argmax(-1), batch["label"])


def test_report_and_summary(run, capsys):
    root, workdir, _ = run
    assert report.main([f"--workdir={workdir}", "--examples=3"]) == 0
    markup = (workdir / "report.html").read_text()
    assert "one of 3 labels, such as “rows” and “plain”" in markup
    capsys.readouterr()
    assert summary.main([f"--config={root / 'bars.py'}", "--depth=1"]) == 0
    assert "clip [4, 16, 16, 3], 3 classes" in capsys.readouterr().out
