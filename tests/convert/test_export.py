"""Weights as .safetensors files: exported, loaded by name or path, predicted with, trained from."""

import json

import jax
import numpy as np
import pytest
from flax import traverse_util
from safetensors import safe_open
from safetensors.numpy import load_file, save, save_file

import rstg_jax
from configs import sync_mnist
from rstg_jax import config, evaluate, predict
from rstg_jax.convert import export, write
from rstg_jax.errors import UserError
from rstg_jax.models import classifier
from rstg_jax.training import (
    init_from,
    sharding,
    train_state,
    trained_model,
    weights_file,
)
from rstg_jax.training.experiment import TrainConfig

LABELS = ("0-1", "0-2", "1-2", "none")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A checkpoint of the tiny model with random weights, and the file that was made of it."""
    folder = tmp_path_factory.mktemp("run")
    experiment = config.override(sync_mnist.tiny(), {"model.rstg.stages": "time,space,time"})
    module = classifier.build(experiment.model, len(LABELS))
    shape = experiment.data.clip_shape
    variables = jax.jit(module.init)(jax.random.key(3), np.zeros((1, *shape), np.uint8))
    write.write(
        folder / "run",
        experiment,
        variables,
        label_names=LABELS,
        video_shape=shape,
        source={"name": "a test"},
    )
    out = folder / "weights.safetensors"
    assert export.main([f"--workdir={folder / 'run'}", f"--out={out}"]) == 0
    return folder / "run", out, variables


def test_export_and_load(run):
    workdir, path, variables = run
    loaded = rstg_jax.load(str(path))
    assert loaded.label_names == LABELS
    wanted = traverse_util.flatten_dict(variables, sep="/")
    assert load_file(path).keys() == wanted.keys()  # by the package that others read it with
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, jax.device_get(variables))
    video = np.random.default_rng(0).integers(0, 256, (2, 4, 16, 16, 1)).astype(np.uint8)
    model = trained_model.load(workdir)
    pairs = (loaded[:2], (model.module, model.variables))
    logits = [jax.jit(m.apply)(v, video)[0] for m, v in pairs]
    np.testing.assert_array_equal(*map(np.asarray, logits))


def test_predictions_are_those_of_the_run(run, tmp_path, capsys):
    workdir, path, _ = run
    video = np.random.default_rng(1).integers(0, 256, (4, 16, 16)).astype(np.uint8)
    np.save(tmp_path / "a.npy", video)
    found = []
    for source in (f"--workdir={workdir}", f"--weights={path}"):
        assert predict.main([source, "--json", str(tmp_path / "a.npy")]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]


def test_half_precision(run, tmp_path):
    workdir, path, variables = run
    out = tmp_path / "half.safetensors"
    assert export.main([f"--workdir={workdir}", f"--out={out}", "--half"]) == 0
    assert out.stat().st_size < 0.7 * path.stat().st_size
    given = rstg_jax.load(str(out)).variables
    for got, wanted in zip(jax.tree.leaves(given), jax.tree.leaves(variables), strict=True):
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, np.asarray(wanted).astype(np.float16))
    large = weights_file.read(path)
    large.variables["params"]["classifier"]["bias"][0] = 1e6
    with pytest.raises(UserError, match="classifier/bias has values that are not finite as float1"):
        weights_file.write(out, large, half=True)


def test_equal_weights_make_equal_files(run, tmp_path):
    given = weights_file.read(run[1])
    made = []
    for number in range(5):
        weights_file.write(tmp_path / f"{number}.safetensors", given)
        made.append((tmp_path / f"{number}.safetensors").read_bytes())
    assert set(made) == {run[1].read_bytes()}
    with safe_open(run[1], framework="numpy") as file:
        metadata = file.metadata()
    arrays = load_file(run[1])
    assert len({save(arrays, metadata) for _ in range(10)}) > 1  # as the library writes them


def test_training_starts_from_a_file(run):
    workdir, path, variables = run
    experiment = trained_model.load(workdir).experiment
    module = classifier.build(experiment.model, len(LABELS))
    mesh = sharding.make_mesh(sharding.MeshConfig(data=1))
    abstract = train_state.abstract_variables(module, experiment.data.clip_shape, mesh)
    other = ("none", *LABELS[:-1])  # the classifier's columns follow the names
    given = {}
    for place in (workdir, path):
        settings = TrainConfig(total_steps=1, init_from=str(place), init_fresh=("params/backbone",))
        given[place], source = init_from.weights(settings, abstract, other)
        assert source["fresh"] > 0 and source["pretrained"] == len(given[place])
    jax.tree.map(np.testing.assert_array_equal, given[workdir], given[path])
    bias = np.asarray(given[path]["params/classifier/bias"])
    np.testing.assert_array_equal(np.roll(bias, -1), variables["params"]["classifier"]["bias"])


def test_what_is_no_such_file(run, tmp_path):
    workdir, path, _ = run
    content = path.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:-9])
    (tmp_path / "text.safetensors").write_text("weights")
    save_file({"conv1.weight": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    for file, array in (("int", np.zeros(3, np.int32)), ("extra", np.zeros(3, np.float32))):
        metadata = {"format": weights_file.FORMAT, "config": "{}", "label_names": "[]"}
        name = "params/a" if file == "int" else "opt_state/a"
        save_file({name: array}, tmp_path / f"{file}.safetensors", metadata)
    save_file({}, tmp_path / "damaged.safetensors", {"format": weights_file.FORMAT})
    for name, message in {
        "cut": "is not a whole .safetensors file",
        "text": "is not a whole .safetensors file",
        "other": "convert.torch reads the files of PyTorch",
        "int": "params/a of type I32 is no weight of a model",
        "extra": "opt_state/a of type F32 is no weight of a model",
        "damaged": "its metadata are damaged",
        "absent": "no such file",
    }.items():
        with pytest.raises(UserError, match=message):
            rstg_jax.load(str(tmp_path / f"{name}.safetensors"))
    with pytest.raises(UserError, match=r"no weights 'lite9': give one of .*kinetics/i3d"):
        rstg_jax.load("lite9")
    with pytest.raises(
        UserError, match=r"is a directory: .*convert\.export --workdir=.* makes a file"
    ):
        rstg_jax.load(workdir)
    with pytest.raises(UserError, match=r"must end in \.safetensors"):
        export.main([f"--workdir={workdir}", f"--out={tmp_path / 'a.npz'}"])


def test_no_place_of_the_machine_is_exported():
    changes = {"data.mnist_dir": "/here", "data.data_dir": "/there", "train.init_from": "/run"}
    changes["train.init_fresh"] = "params/rstg"
    moved = config.override(sync_mnist.tiny(), changes)
    assert export.portable(moved) == sync_mnist.tiny()


def test_the_config_of_an_export_is_that_of_the_run(run, tmp_path):
    words = [f"--workdir={run[0]}", f"--out={tmp_path / 'b.safetensors'}"]
    for change in ("data.num_test=3", "model.rstg.dim=7", "optim.b1=0.8"):
        message = (
            rf"--config\.{change.partition('=')[0]}: the config of an export is .*data\.data_dir"
        )
        with pytest.raises(UserError, match=message):
            export.main([*words, f"--config.{change}"])
    assert export.main([*words, "--config.data.data_dir=/there"]) == 0
    assert (tmp_path / "b.safetensors").read_bytes() == run[1].read_bytes()


def test_evaluation_is_that_of_the_run(run, tmp_path, capsys):
    workdir, path, _ = run
    found = []
    for words in ([f"--workdir={workdir}"], [f"--weights={path}"]):
        out = f"--out={tmp_path / 'new' / 'directory'}"
        assert evaluate.main([*words, out, "--config.data.classes=0,1,2"]) == 0
        found.append(capsys.readouterr().out.splitlines()[1:-3])
    assert found[0] == found[1] and found[0]
    names = ("evaluation-test-last.json", "evaluation-test-weights.json")
    metrics = [json.loads((tmp_path / "new/directory" / name).read_text()) for name in names]
    assert metrics[0]["loss"] == metrics[1]["loss"] > 0
