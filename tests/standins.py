"""A small model and a small data source of the same shape as the real ones, but ten times faster.

The model has what a training step must carry along: dropout, batch norm, frame logits. The source
is learnable: a bright stripe whose row is the label.
"""

import dataclasses
import json
import os
import signal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from rstg_jax import data
from rstg_jax.models import classifier
from rstg_jax.training import logs, train_loop
from rstg_jax.training.experiment import Experiment, TrainConfig
from rstg_jax.training.losses import LossConfig
from rstg_jax.training.optim import OptimizerConfig
from rstg_jax.training.sharding import MeshConfig


class Model(nn.Module):
    classes: int
    dim: int = 16

    @nn.compact
    def __call__(self, video, train: bool):
        b, t, h, w, c = video.shape
        x = video.astype(jnp.float32).reshape(b, t, h // 4, 4, w * c).mean((3, 4)) / 255
        # No bias before batch norm: its gradient is rounding noise, which Adam would blow up.
        x = nn.Dense(self.dim, use_bias=False, name="project")(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        x = nn.Dropout(0.1, deterministic=not train)(nn.relu(x))
        frames = nn.Dense(self.classes, name="head")(x)  # [b t classes]
        return frames.mean(1), {"frame_logits": frames}


@dataclasses.dataclass
class Source:
    split: str = "train"
    size: int = 37
    classes: int = 7
    wrong_label_from: int = 2**62

    @property
    def label_names(self):
        return tuple("abcdefghij"[: self.classes])

    @property
    def name(self):
        return f"stripes {self.split}"

    @property
    def provenance(self):
        return {"digits": "none", "seed": 0}

    def __len__(self):
        return self.size

    def batch(self, indices):
        videos, labels = [], []
        for index in np.asarray(indices):
            rng = np.random.default_rng((int(index) % 2**40, self.split == "train"))
            label = int(rng.integers(self.classes))
            video = rng.integers(0, 100, (3, 32, 32, 1)).astype(np.uint8)
            video[:, 4 * label : 4 * label + 4] += 50
            videos.append(video)
            labels.append(99 if index >= self.wrong_label_from else label)
        return {
            "video": np.stack(videos),
            "label": np.array(labels, np.int32),
            "digits": np.zeros((len(labels), 3), np.int32),
        }


def records(workdir):
    """The records of metrics.jsonl, without what depends on the clock."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if k not in logs.CLOCK} for x in lines]


def figures(workdir):
    """The content of result.json, without what depends on the clock."""
    result = json.loads((workdir / "result.json").read_text())
    return {k: v for k, v in result.items() if k != "wall_time_seconds"}


def install(monkeypatch, train=None, test=None):
    """Puts the stand-ins in the place of model and data."""
    train = Source(size=data.ENDLESS) if train is None else train
    sources = {"train": train, "test": Source("test") if test is None else test}
    monkeypatch.setattr(classifier, "build", lambda config, classes: Model(classes))
    monkeypatch.setattr(data.SyncMNISTConfig, "num_classes", len(train.label_names))
    monkeypatch.setattr(data.SyncMNISTConfig, "open", lambda config, split: sources[split])
    monkeypatch.setattr(data.SyncMNISTConfig, "check_lists", lambda config: None)


def stop_while_update(monkeypatch, number):
    """A signal arrives while this update of a process, counted from 1, is on its way."""
    original, calls = train_loop.update, []

    def update(*args):
        original(*args)
        calls.append(0)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(train_loop, "update", update)


def experiment(mesh=None, optim=None, loss="softmax", **fields):
    """An experiment of 20 steps; `fields` go to its `TrainConfig`."""
    defaults = {
        "total_steps": 20,
        "batch_size": 8,
        "log_every": 5,
        "eval_every": 10,
        "checkpoint_every": 10,
    }
    totals = {"total_steps", "total_epochs", "total_examples"}
    if totals & set(fields):
        del defaults["total_steps"]
    return Experiment(
        name="stand-in",
        train=TrainConfig(**defaults | fields),
        data=data.SyncMNISTConfig(num_frames=3, frame_size=32),
        loss=LossConfig(kind=loss),
        optim=optim or OptimizerConfig(learning_rate=0.01, ema_decay=0.9, clip_norm=1.0),
        mesh=mesh or MeshConfig(data=1),
    )
