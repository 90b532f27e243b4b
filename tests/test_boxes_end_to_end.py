"""Boxes from a file reach the network in training, testing and prediction, or are refused."""

import dataclasses
import json

import numpy as np
import pytest

from configs import smt
from rstg_jax import cli, evaluate, features, predict
from rstg_jax.convert import export
from rstg_jax.data import BoxesConfig, ClipConfig, FolderConfig
from rstg_jax.errors import UserError
from rstg_jax.models.backbones import SimpleCNNConfig
from rstg_jax.models.config import ModelConfig
from rstg_jax.models.heads import GlobalPooling, RegionGCNHead
from rstg_jax.training import train_loop, trained_model
from rstg_jax.training.experiment import Experiment, TrainConfig
from rstg_jax.training.losses import LossConfig
from rstg_jax.training.sharding import MeshConfig
from rstg_jax.viz import examples

COUNT = 4  # videos of each label


def experiment(root, boxes, **head):
    """A joint GCN on the boxes of a file."""
    clip = ClipConfig(frames=4, sampling="segments", resize=16, crop=12, flip=True)
    return Experiment(
        name="boxes",
        train=TrainConfig(total_steps=2, batch_size=4, log_every=1, eval_every=2),
        model=ModelConfig(
            backbone=SimpleCNNConfig((4,), (3,), (2,), "SAME", False, input_scale=100.0),
            rstg_at=(),
            head=RegionGCNHead(**{"regions": "boxes", "dim": 4, "layers": 1} | head),
        ),
        data=FolderConfig(
            path=str(root / "videos"),
            test_path=str(root / "videos"),
            extensions=(".npy",),
            clip=clip,
            boxes=BoxesConfig(2, str(root / boxes)),
        ),
        mesh=MeshConfig(data=1),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Videos of noise, two files of boxes, and a network that was trained on the first."""
    root = tmp_path_factory.mktemp("boxes")
    rng = np.random.default_rng(0)
    tables = {}, {}
    for label in ("left", "right"):
        (root / "videos" / label).mkdir(parents=True)
        for number in range(COUNT):
            name = f"{label}/{number}.npy"
            video = rng.integers(0, 256, (6, 16, 20, 3)).astype(np.uint8)
            np.save(root / "videos" / name, video)
            for table, width in zip(tables, (4, 12), strict=True):
                table[name] = {frame: [[4, 2, 4 + width, 9], [8, 6, 15, 14]] for frame in range(6)}
    for file, table in zip(("first.json", "second.json"), tables, strict=True):
        (root / file).write_text(json.dumps(table))
    result = train_loop.train(experiment(root, "first.json"), root / "run")
    assert result["examples"] == 2 * COUNT and np.isfinite(result["loss"])
    return root


def read(path):
    return json.loads(path.read_text())


def test_training_testing_and_prediction_agree(run, capsys):
    """One view and several; other boxes give other numbers."""
    workdir = f"--workdir={run / 'run'}"
    assert evaluate.main([workdir]) == 0
    center = read(run / "run" / "evaluation-test-last-center.json")
    result = read(run / "run" / "result.json")
    assert center["loss"] == pytest.approx(result["loss"], rel=1e-5)
    assert evaluate.main([workdir, "--protocol=2x2"]) == 0
    wanted = read(run / "run" / "predictions-test-last-2x2.json")
    capsys.readouterr()
    assert predict.main([workdir, "--protocol=2x2", "--json", "test:0-7"]) == 0
    records = json.loads(capsys.readouterr().out)
    for record, (name, best) in zip(records, wanted.items(), strict=True):
        assert record["id"] == name
        found = [p["probability"] for p in record["predictions"]]
        assert found == pytest.approx([p["probability"] for p in best], rel=1e-4)
    assert len(examples.load_examples(run / "run", "last", 2)[0]) == 2

    assert evaluate.main([workdir, f"--config.data.boxes.path={run / 'second.json'}"]) == 0
    other = read(run / "run" / "evaluation-test-last-center.json")
    assert abs(other["loss"] - center["loss"]) > 1e-3


def test_the_published_network_when_scaled_down(run, capsys):
    """`nl_i3d_gcn_boxes` with two narrow stages, on ten boxes a frame, of which two are real."""
    variant, small = smt.get_config("nl_i3d_gcn_boxes"), experiment(run, "first.json")
    assert variant.data.boxes.per_frame == 10
    backbone = dataclasses.replace(
        variant.model.backbone,
        width=4,
        depths=(1, 1),
        temporal_kernels=((3,), (1,)),
        spatial_strides=(1, 2),
        temporal_strides=(1, 1),
        non_local=("res3.0",),
    )
    head = dataclasses.replace(variant.model.head, dim=4, layers=1)
    published = dataclasses.replace(
        variant,
        model=dataclasses.replace(variant.model, backbone=backbone, head=head),
        data=dataclasses.replace(
            small.data,
            clip=ClipConfig(frames=4, resize=36, crop=32),
            boxes=dataclasses.replace(variant.data.boxes, path=str(run / "first.json")),
        ),
        train=small.train,
        mesh=small.mesh,
    )
    workdir = run / "published"
    result = train_loop.train(published, workdir)
    assert result["examples"] == 2 * COUNT and np.isfinite(result["loss"])

    def loss(*words):
        assert evaluate.main([f"--workdir={workdir}", *words]) == 0
        return read(workdir / "evaluation-test-last-center.json")["loss"]

    assert loss() == pytest.approx(result["loss"], rel=1e-5)
    wanted = read(workdir / "predictions-test-last-center.json")
    capsys.readouterr()
    assert predict.main([f"--workdir={workdir}", "--json", "test:0-7"]) == 0
    for record in json.loads(capsys.readouterr().out):
        found = [p["probability"] for p in record["predictions"]]
        best = [p["probability"] for p in wanted[record["id"]]]
        assert found == pytest.approx(best, rel=1e-4)
    other = loss(f"--config.data.boxes.path={run / 'second.json'}")
    assert abs(other - result["loss"]) > 1e-4


def test_what_has_no_boxes_is_refused(run, tmp_path, capsys):
    workdir, film = f"--workdir={run / 'run'}", str(run / "videos" / "left" / "0.npy")

    def said(main, *words):
        assert cli.run(lambda: main([workdir, *words])) != 0
        return capsys.readouterr().err

    assert "0.npy: the network reads boxes beside the frames" in said(predict.main, film)
    timeline = f"--timeline={tmp_path / 'lines'}"
    assert "the network reads boxes" in said(predict.main, timeline, film)
    drawn = f"--visualise={tmp_path / 'a.gif'}"
    assert "this network reads boxes of objects" in said(predict.main, drawn, "test:0")
    stored = said(features.main, f"--out={tmp_path / 'maps'}")
    assert "feature maps are stored without the boxes" in stored


def test_a_run_goes_on_with_the_same_boxes_only(run):
    """Their file may move; other boxes are an error."""
    longer = TrainConfig(total_steps=2, batch_size=4, log_every=1, eval_every=2, keep=1)
    moved = run / "moved.json"
    moved.write_text((run / "first.json").read_text())
    again = dataclasses.replace(experiment(run, "moved.json"), train=longer)
    assert train_loop.train(again, run / "run")["steps"] == 2
    with pytest.raises(UserError, match="boxes_sha256"):
        train_loop.train(experiment(run, "second.json"), run / "run")
    portable = export.portable(trained_model.load(run / "run").experiment)
    assert portable.data.boxes == BoxesConfig(2)


def test_a_term_of_the_objective_may_read_the_frames(run, tmp_path):
    """Its start is checked with boxes as well: the head gives one vector for all frames."""
    fits = experiment(run, "first.json")
    term = dataclasses.replace(fits, loss=LossConfig(frame_weight=0.5))
    result = train_loop.train(term, tmp_path / "term")
    assert result["steps"] == 2 and np.isfinite(result["loss"])
    late = dataclasses.replace(fits, loss=LossConfig(frame_weight=0.5, frame_start=1))
    with pytest.raises(UserError, match="frame_start=1 leaves none of the 1 frames"):
        train_loop.train(late, tmp_path / "late")


def test_configurations_that_do_not_fit(run):
    fits = experiment(run, "first.json")
    with pytest.raises(UserError, match="RegionGCNHead reads boxes, but these data bring none"):
        without = dataclasses.replace(fits.data, boxes=BoxesConfig())
        dataclasses.replace(fits, data=without)
    for head in (GlobalPooling(), RegionGCNHead()):
        with pytest.raises(UserError, match=rf"data\.boxes: {type(head).__name__} reads no boxes"):
            dataclasses.replace(fits, model=dataclasses.replace(fits.model, head=head))
