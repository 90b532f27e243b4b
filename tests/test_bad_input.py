"""Wrong input to training: one clear line that says what and what to do, status 2, no traceback."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable

import flax.linen as nn
import numpy as np
import pytest

import train
from rstg_jax import cli, config, data, storage
from rstg_jax.errors import UserError
from rstg_jax.models import classifier
from rstg_jax.models.config import ModelConfig
from rstg_jax.training import run as run_lib
from rstg_jax.training import train_loop
from rstg_jax.training.sharding import MeshConfig
from tests import standins


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    standins.install(monkeypatch)
    monkeypatch.setattr(config, "load", lambda _: standins.experiment())


def run(monkeypatch, capsys, tmp_path, *flags):
    """Runs the command line; returns status and what it printed to stderr."""
    argv = ["train.py", "--config=x.py", f"--workdir={tmp_path}", *flags]
    monkeypatch.setattr(sys, "argv", argv)
    status = cli.run(train.main)
    return status, capsys.readouterr().err


def only_error(status, err):
    assert status == 2
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("error: ")
    return last


def test_misspelt_key_names_the_nearest(monkeypatch, capsys, tmp_path):
    error = only_error(*run(monkeypatch, capsys, tmp_path, "--config.train.batchsize=4"))
    assert error == "error: no config key 'train.batchsize'; the nearest is 'train.batch_size'"


def test_wrong_type_names_key_value_and_type(monkeypatch, capsys, tmp_path):
    error = only_error(*run(monkeypatch, capsys, tmp_path, "--config.optim.clip_norm", "big"))
    assert error == "error: config key 'optim.clip_norm': 'big' is not of type float | None"


def test_impossible_value_names_the_section(monkeypatch, capsys, tmp_path):
    error = only_error(*run(monkeypatch, capsys, tmp_path, "--config.train.batch_size=0"))
    assert error == "error: config section 'train': batch_size=0 must be at least 1"


def test_impossible_seeds_are_refused(monkeypatch, capsys, tmp_path):
    error = only_error(*run(monkeypatch, capsys, tmp_path, "--config.train.seed=3000000000"))
    assert error.startswith("error: config section 'train': seed=3000000000 must lie in -2**31")
    error = only_error(*run(monkeypatch, capsys, tmp_path, "--config.data.seed=-1"))
    assert error == "error: config section 'data': seed=-1 must lie in 0..2**64 - 1"


def test_first_frame_of_the_loss_behind_the_clip(monkeypatch, capsys, tmp_path):
    flags = ("--config.loss.frame_weight=1", "--config.loss.frame_start=3")
    error = only_error(*run(monkeypatch, capsys, tmp_path, *flags))
    assert error == "error: loss.frame_start=3 leaves none of the 3 frames"
    assert not list(tmp_path.iterdir())


def test_first_frame_of_the_loss_behind_those_that_the_network_makes(monkeypatch, capsys, tmp_path):
    class Pooled(nn.Module):
        @nn.compact
        def __call__(self, video, train):
            return standins.Model(7)(video[:, ::2], train)

    monkeypatch.setattr(classifier, "build", lambda config, classes: Pooled())
    flags = ("--config.loss.frame_weight=1", "--config.loss.frame_start=2")
    error = only_error(*run(monkeypatch, capsys, tmp_path, *flags))
    assert error == "error: loss.frame_start=2 leaves none of the 2 frames"
    assert not list(tmp_path.iterdir())


def test_mistyped_flag(monkeypatch, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, capsys, tmp_path, "--wrkdir=x")
    assert stop.value.code == 2
    assert "unrecognised argument '--wrkdir=x'" in capsys.readouterr().err


def test_several_processes_need_all_three_flags(monkeypatch, capsys, tmp_path):
    error = only_error(*run(monkeypatch, capsys, tmp_path, "--num_processes=2"))
    assert "give --coordinator, --num_processes and --process_id together" in error
    flags = ("--coordinator=localhost", "--num_processes=2", "--process_id=0")
    error = only_error(*run(monkeypatch, capsys, tmp_path, *flags))
    assert error == "error: --coordinator=localhost: give HOST:PORT, the same everywhere"


def test_batch_that_devices_do_not_divide(monkeypatch, capsys, tmp_path):
    flags = ("--config.mesh.data=8", "--config.train.batch_size=12")
    error = only_error(*run(monkeypatch, capsys, tmp_path, *flags))
    assert error.startswith("error: config key 'train.batch_size': 12 is not divisible by the 8 ")
    assert error.endswith("use 16")


def test_mesh_that_does_not_fit(monkeypatch, capsys, tmp_path):
    error = only_error(*run(monkeypatch, capsys, tmp_path, "--config.mesh.model=16"))
    assert "data=1 x fsdp=1 x model=16 does not fit 8 devices" in error


def test_empty_split(monkeypatch, capsys, tmp_path):
    standins.install(monkeypatch, test=standins.Source("test", size=0))
    error = only_error(*run(monkeypatch, capsys, tmp_path))
    assert error == "error: the test split of stripes test is empty"


@pytest.mark.parametrize("split", ["train", "test"])
def test_label_out_of_range(monkeypatch, capsys, tmp_path, split):
    wrong = standins.Source(split, size=40, wrong_label_from=33)
    standins.install(monkeypatch, **{split: wrong})
    error = only_error(*run(monkeypatch, capsys, tmp_path))
    assert f"stripes {split}" in error and "label 99" in error and "0 to 6" in error


def test_splits_with_different_labels(monkeypatch, capsys, tmp_path):
    standins.install(monkeypatch, test=standins.Source("test", classes=5))
    error = only_error(*run(monkeypatch, capsys, tmp_path))
    assert "different labels" in error


@dataclasses.dataclass
class Changed(standins.Source):
    """Gives one array of its batches as `change` makes it."""

    key: str = "label"
    change: Callable[[np.ndarray], np.ndarray] = np.asarray

    def batch(self, indices):
        batch = super().batch(indices)
        return batch | {self.key: self.change(batch[self.key])}


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("label", np.eye(7, dtype=np.int32).__getitem__, "is int32 [1, 7], but multi_label=False"),
        ("label", np.float32, "label of one example is float32 [1], but multi_label=False"),
        ("video", lambda v: v[:, :, :16], "a video is [3, 16, 32, 1], but clip_shape is [3, 32, "),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_examples_that_are_not_as_the_config_says(
    monkeypatch, tmp_path, split, key, change, message
):
    standins.install(monkeypatch, **{split: Changed(split, key=key, change=change)})
    experiment = standins.experiment()
    with pytest.raises(UserError) as error:
        run_lib.set_up(experiment, storage.path(tmp_path))
    assert not (tmp_path / "lock.json").exists()  # it is no longer used
    message = message.replace("clip_shape", "clip_shape" if split == "train" else "test_clip_shape")
    assert message in str(error.value) and str(error.value).startswith(f"stripes {split}: ")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("train.init_from=nowhere", "there is no such directory"),
        ("train.init_from=nowhere.safetensors", "no such file"),
        ("train.init_from=sync_mnist/demo", "does not fit the model"),
        ("optim.frozen=params/bakbone", "is found in the path of no weight"),
        ("optim.rates=(('bakbone',2.0),)", "is found in the path of no weight"),
        ("loss.frame_start=9", "loss.frame_start=9 leaves none of the"),
    ],
)
def test_mistakes_are_found_before_the_data_are_opened(
    monkeypatch, capsys, tmp_path, flag, message
):
    """The first check of many videos may take hours."""
    monkeypatch.setattr(data.SyncMNISTConfig, "open", None)
    flags = (f"--config.{flag}", "--config.loss.frame_weight=1")
    assert message in only_error(*run(monkeypatch, capsys, tmp_path, *flags))


def test_pooling_that_the_head_does_not_read_is_refused_at_the_start_only(
    monkeypatch, capsys, tmp_path
):
    """Older runs have it without effect; they go on and load."""
    head = ["rstg_at=()", "head=ResNet3DHead", "map_classes=10", "map_channels=true"]
    flags = [f"--config.model.{key}" for key in head] + ["--config.train.total_steps=1"]
    presence = "--config.model.map_pool=presence"
    error = only_error(*run(monkeypatch, capsys, tmp_path / "a", *flags, presence))
    assert "'model.map_pool': presence would change nothing, as ResNet3DHead does not" in error
    assert run(monkeypatch, capsys, tmp_path / "a", *flags)[0] == 0
    with monkeypatch.context() as before:
        before.setattr(ModelConfig, "check_pooling", lambda config: None)
        assert run(before, capsys, tmp_path / "b", *flags, presence)[0] == 0
    assert run(monkeypatch, capsys, tmp_path / "b", *flags, presence)[0] == 0


def test_a_workdir_that_cannot_be_used_is_found_before_the_data_are_opened(
    monkeypatch, capsys, tmp_path
):
    status, _ = run(monkeypatch, capsys, tmp_path / "a", "--config.train.total_steps=1")
    assert status == 0
    monkeypatch.setattr(data.SyncMNISTConfig, "open", None)
    flags = ("--config.train.total_steps=1", "--config.optim.learning_rate=0.5")
    error = only_error(*run(monkeypatch, capsys, tmp_path / "a", *flags))
    assert "holds a checkpoint of another config" in error
    (tmp_path / "file").touch()
    error = only_error(*run(monkeypatch, capsys, tmp_path / "file"))
    assert error.endswith("file: is a file, not a directory")


def test_other_labels_than_the_config_says(monkeypatch):
    monkeypatch.setattr(data.SyncMNISTConfig, "num_classes", 5)
    with pytest.raises(
        UserError, match=r"has 7 label_names, but SyncMNISTConfig\.num_classes is 5"
    ):
        data.check_source(standins.experiment().data, standins.Source(), "train")
    monkeypatch.setattr(data.SyncMNISTConfig, "num_classes", 7)
    monkeypatch.setattr(data.SyncMNISTConfig, "multi_label", True)
    with pytest.raises(UserError, match=r"int32 \[1\], but multi_label=True .* \[batch, 7\]"):
        data.check_source(data.SyncMNISTConfig(), standins.Source(), "train")


def test_workdir_with_another_config(monkeypatch, capsys, tmp_path):
    status, _ = run(monkeypatch, capsys, tmp_path, "--config.train.total_steps=3")
    assert status == 0
    flags = ("--config.train.total_steps=4", "--config.optim.learning_rate=0.5")
    error = only_error(*run(monkeypatch, capsys, tmp_path, *flags))
    assert "checkpoint of another config" in error
    assert "optim.learning_rate: 0.01 != 0.5" in error and "total_steps" not in error
    error = only_error(*run(monkeypatch, capsys, tmp_path, "--config.name=other", *flags))
    assert "holds a checkpoint of 'stand-in', not 'other' (there" in error
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["optim"]["learning_rate"] == 0.01  # the run there is untouched


def test_nan_loss(monkeypatch, capsys, tmp_path):
    flags = ("--config.optim.name=nesterov", "--config.optim.learning_rate=1e30")
    flags += ("--config.optim.clip_norm=none", "--config.optim.ema_decay=none")
    error = only_error(*run(monkeypatch, capsys, tmp_path, *flags))
    assert " at step 1; no checkpoint was saved before it" in error or " at step 2;" in error
    assert not os.listdir(tmp_path / "checkpoints")


def test_workdir_that_is_a_file(monkeypatch, capsys, tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    error = only_error(*run(monkeypatch, capsys, path))
    assert error.startswith(f"error: cannot use {path}: ")


def test_mesh_config_is_checked_in_overrides():
    with pytest.raises(UserError, match="config section 'mesh': mesh sizes"):
        config.override(standins.experiment(mesh=MeshConfig()), {"mesh.fsdp": "-1"})


def test_a_damaged_checkpoint_is_named(monkeypatch, capsys, tmp_path):
    train_loop.train(standins.experiment(total_steps=3), tmp_path)
    (tmp_path / "checkpoints/3/meta/metadata").write_text("{")
    error = only_error(*run(monkeypatch, capsys, tmp_path))
    assert f"every checkpoint in {tmp_path}/checkpoints is damaged (3: meta/metadata has" in error
