"""Runs that begin with the weights of another: what they take, what they refuse, what they say."""

import itertools
import json
import logging
import shutil
import socket
from types import SimpleNamespace

import chex
import jax
import numpy as np
import pytest

import train
from configs import sync_mnist
from rstg_jax import cli, config, data
from rstg_jax.errors import UserError
from rstg_jax.training import (
    checkpoint,
    init_from,
    resume,
    sharding,
    train_loop,
    train_state,
    trained_model,
    weights_file,
)
from rstg_jax.training import run as run_lib
from rstg_jax.training.experiment import TrainConfig
from tests import standins
from tests.training import test_resume

SMALL = {
    "mesh.data": "1",
    "model.rstg.stages": "time,space,time",
    "data.num_test": "8",
    "optim.schedule": "constant",  # so that runs of different lengths share what is compiled
    "train.batch_size": "8",
    "train.eval_every": "2",
    "train.checkpoint_every": "2",
    "train.total_steps": "4",
}


def experiment(**changes):
    """The tiny model; keys with two underscores for dots."""
    dotted = {key.replace("__", "."): str(value) for key, value in changes.items()}
    return config.override(sync_mnist.tiny(), SMALL | dotted)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A finished run of four steps, with a moving average."""
    workdir = tmp_path_factory.mktemp("source")
    train_loop.train(experiment(), workdir)
    return workdir


def begin(workdir, **changes):
    """The run and its state before the first step."""
    run = run_lib.set_up(experiment(**changes), workdir)
    with run.checkpoints:
        return run, resume.start(run)


def fed(run, count):
    """The first batches of a run as its loop feeds them."""
    settings, keys = run.experiment.train, run.experiment.loss.batch_keys
    batches = data.train_batches(
        run.train_source, batch_size=settings.batch_size, seed=settings.seed, prefetch=0
    )
    return [
        sharding.put_batch({key: batch[key] for key in keys}, run.mesh)
        for batch in itertools.islice(batches, count)
    ]


def tree(state):
    return jax.device_get((state.params, state.batch_stats))


# --- what is taken over ---------------------------------------------------------------------------


def test_weights_are_taken_and_nothing_else(source, tmp_path):
    there = trained_model.load(source, devices=jax.devices()[:1])
    run, progress = begin(tmp_path / "a", train__init_from=source, train__seed=5)
    _, scratch = begin(tmp_path / "b", train__seed=5)
    state = progress.state
    pretrained = jax.device_get(there.variables)  # the average, which is what was evaluated
    chex.assert_trees_all_equal(tree(state)[0], pretrained["params"])
    chex.assert_trees_all_equal(jax.device_get(state.ema_params), pretrained["params"])
    chex.assert_trees_all_equal(state.opt_state, scratch.state.opt_state)
    assert (progress.step, int(state.step), progress.resumed) == (0, 0, False)
    np.testing.assert_array_equal(state.key, scratch.state.key)
    count = len(jax.tree.leaves(pretrained))
    assert progress.init_source == {
        "directory": str(source), "step": 4, "pretrained": count, "fresh": 0, "ignored": 0
    }  # fmt: skip

    video = run.test_source.batch(np.arange(8))["video"]
    classify = jax.jit(there.module.apply)
    logits = classify(state.variables, video)[0]
    np.testing.assert_array_equal(logits, classify(there.variables, video)[0])
    assert np.abs(logits - classify(scratch.state.variables, video)[0]).max() > 1e-3


def test_weights_of_the_package_by_name():
    changes = {"train.init_from": "sync_mnist/demo", "mesh.data": "1"}
    weights = weights_file.read(weights_file.SHIPPED["sync_mnist/demo"])
    model = init_from.model(config.override(sync_mnist.demo(), changes), weights.label_names)
    chex.assert_trees_all_equal(jax.device_get(model.variables), weights.variables)
    with pytest.raises(UserError, match=r"sync_mnist/demo does not fit the model"):
        init_from.model(config.override(sync_mnist.tiny(), changes), weights.label_names)


def test_training_equals_a_run_whose_weights_were_set_by_hand(source, tmp_path):
    """Also: the init_source is recorded, and no longer needed to resume."""
    gone = tmp_path / "gone"
    shutil.copytree(source, gone)
    changes = {"train__init_from": f"{gone}:2", "train__seed": 5}
    result = train_loop.train(experiment(**changes, train__total_steps=2), tmp_path / "run")
    shutil.rmtree(gone)

    run, progress = begin(tmp_path / "hand", train__seed=5, train__total_steps=2)
    weights = trained_model.load(source, "2", devices=jax.devices()[:1]).variables["params"]
    state = progress.state.replace(params=weights, ema_params=jax.tree.map(np.array, weights))
    state = jax.device_put(state, train_state.shardings_of(run.abstract))
    for batch in fed(run, 2):
        state, _ = run.train_step(state, batch)
    ours = checkpoint.Checkpoints(tmp_path / "run", read_only=True)
    with ours:
        chex.assert_trees_all_equal(
            jax.device_get(ours.restore(2, run.abstract)), jax.device_get(state)
        )

    assert result["init_source"]["directory"] == str(gone) and result["init_source"]["step"] == 2
    longer = train_loop.train(experiment(**changes, train__total_steps=4), tmp_path / "run")
    assert (longer["steps"], longer["init_source"]) == (4, result["init_source"])
    written = json.loads((tmp_path / "run/result.json").read_text())
    assert written["init_source"] == result["init_source"]
    with pytest.raises(UserError, match=r"another config .*train\.init_from: .*gone:2 != ;"):
        train_loop.train(experiment(train__seed=5), tmp_path / "run")


@pytest.mark.parametrize("mesh", [(1, 8, 1), (2, 2, 2)])
def test_weights_of_one_device_on_eight(source, tmp_path, mesh):
    changes = dict(zip(("mesh__data", "mesh__fsdp", "mesh__model"), mesh, strict=True))
    run, progress = begin(tmp_path, train__init_from=source, **changes)
    one = trained_model.load(source, devices=jax.devices()[:1]).variables["params"]
    chex.assert_trees_all_equal(tree(progress.state)[0], jax.device_get(one))
    placed = jax.tree.map(lambda leaf: leaf.sharding, progress.state)
    assert placed == train_state.shardings_of(run.abstract)
    kernel = progress.state.params["rstg_final"]["time"]["lstm"]["input_kernel"]
    assert len({str(shard.index) for shard in kernel.addressable_shards}) == mesh[1] * mesh[2]


def test_two_processes_begin_with_the_weights_of_one(tmp_path, monkeypatch):
    standins.install(monkeypatch)
    first, one, two = (tmp_path / name for name in ("first", "one", "two"))
    train_loop.train(standins.experiment(total_steps=3), first)
    train_loop.train(standins.experiment(total_steps=3, init_from=str(first)), one)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    flags = [f"--coordinator={address}", "--num_processes=2", f"--config.train.init_from={first}"]
    flags += [f"--config.{key}" for key in ("mesh.data=2", "mesh.fsdp=2", "train.total_steps=3")]
    processes = [test_resume.launch(two, *flags, f"--process_id={i}", devices=2) for i in range(2)]
    results = [test_resume.finish(process) for process in processes]
    assert [status for status, _, _ in results] == [0, 0], results
    assert f"initialised from {first} step 3: 7 arrays pretrained, 0 fresh" in results[0][2]
    losses = {path: [r["loss"] for r in standins.records(path)] for path in (first, one, two)}
    assert losses[two] == pytest.approx(losses[one], rel=1e-4)
    assert losses[one][0] < losses[first][0]


# --- other labels ---------------------------------------------------------------------------------


def test_another_number_of_classes_gets_a_new_classifier(source, tmp_path, caplog):
    changes = {"data__classes": "0,1,2,3", "train__seed": 5}
    with caplog.at_level(logging.INFO):
        _, progress = begin(tmp_path / "a", train__init_from=source, **changes)
    assert "4 classes there, 7 here: new classifier" in caplog.text
    assert (progress.init_source["fresh"], progress.init_source["ignored"]) == (2, 0)
    _, scratch = begin(tmp_path / "b", **changes)
    weights, fresh = tree(progress.state)[0], tree(scratch.state)[0]
    there = jax.device_get(trained_model.load(source).variables["params"])
    chex.assert_trees_all_equal(weights["classifier"], fresh["classifier"])
    for part in ("backbone", "rstg_final"):
        chex.assert_trees_all_equal(weights[part], there[part])


def test_a_model_that_a_checkpoint_is_not_of_is_refused(source):
    with pytest.raises(
        UserError, match=r"do not fit the model: .*/bias is \[\d+\], the model's is"
    ):
        trained_model.load(source, overrides={"model.rstg.dim": "12"})


def test_the_same_labels_in_another_order_take_their_columns_along(source, caplog):
    run, _ = begin(source / "nothing")
    settings = TrainConfig(total_steps=1, init_from=str(source))
    names = run.train_source.label_names
    plain, _ = init_from.weights(settings, run.abstract.variables, names)
    with caplog.at_level(logging.INFO):
        turned, _ = init_from.weights(settings, run.abstract.variables, names[::-1])
    assert "the classifier's columns take the order" in caplog.text
    for path, value in plain.items():
        expected = value[..., ::-1] if path.startswith("params/classifier/") else value
        np.testing.assert_array_equal(turned[path], expected)
        assert turned[path].sharding == value.sharding
    assert np.abs(np.diff(plain["params/classifier/bias"])).min() > 0


def test_labels_of_other_names_keep_the_classifier_and_are_named(source, caplog):
    run, _ = begin(source / "nothing")
    settings = TrainConfig(total_steps=1, init_from=str(source))
    names = run.train_source.label_names
    plain, _ = init_from.weights(settings, run.abstract.variables, names)
    with caplog.at_level(logging.INFO):
        other, _ = init_from.weights(settings, run.abstract.variables, (*names[:-1], "nothing"))
    chex.assert_trees_all_equal(plain, other)
    assert (
        "the classifier is kept although 1 of 4 labels have other names ('none' is 'nothing' "
        "here): --config.train.init_fresh=params/classifier/ starts it fresh"
    ) in caplog.text


# --- what does not fit ----------------------------------------------------------------------------


def arrays(**shapes):
    return {path.replace("__", "/"): SimpleNamespace(shape=s) for path, s in shapes.items()}


def match(here, there, fresh=(), ignore=()):
    settings = TrainConfig(total_steps=1, init_from="run:7", init_fresh=fresh, init_ignore=ignore)
    return init_from.match(settings, here, there, "run step 7")


def test_every_misfit_is_named_in_one_line():
    here = arrays(
        params__a__kernel=(3, 4), params__b__bias=(2,), params__c__bias=(5,), batch_stats__c__m=(5,)
    )
    there = arrays(
        params__a__kernel=(3, 5), params__c__bias=(5,), params__old__x=(), params__y=(1,)
    )
    with pytest.raises(UserError) as error:
        match(here, there, fresh=("typo",), ignore=("params/c",))
    assert str(error.value) == (
        "train.init_from: run step 7 does not fit the model; "
        "it lacks (train.init_fresh lets them start fresh): params/b/bias [2], batch_stats/c/m [5];"
        " of another shape (train.init_fresh lets them start fresh): "
        "params/a/kernel [3, 5] there, [3, 4] here; "
        "the model lacks (train.init_ignore leaves them out): params/old/x [], params/y [1]; "
        "patterns that match nothing of these: init_fresh 'typo', init_ignore 'params/c'"
    )
    found = match(here, there, fresh=("^params/[ab]/", "batch_stats"), ignore=("/old/", "y$"))
    assert found == (
        ("params/c/bias",),
        ("batch_stats/c/m", "params/a/kernel", "params/b/bias"),
        ("params/old/x", "params/y"),
    )


def test_a_classifier_of_another_width_is_a_misfit():
    here = {"params/classifier/kernel": (8, 7), "params/classifier/bias": (7,)}
    there = {"params/classifier/kernel": (9, 7), "params/classifier/bias": (7,)}
    here, there = arrays(**here), arrays(**there)
    with pytest.raises(UserError, match=r"params/classifier/kernel \[9, 7\] there, \[8, 7\] here$"):
        match(here, there)
    assert match(here, there, fresh=("kernel",)).pretrained == ("params/classifier/bias",)
    more = arrays(**{"params/classifier/kernel": (9, 4), "params/classifier/bias": (4,)})
    assert match(here, more).pretrained == ()  # other classes: it is replaced, whatever its width


def test_a_graph_put_into_a_trained_network_and_taken_out(source, tmp_path):
    """The checkpoint has time and space stages; a model with none of one kind, and back."""
    time_only = {"model__rstg__stages": "time"}
    with pytest.raises(
        UserError, match=r"the model lacks .* params/rstg_final/space/.* \[8, 8\].* more"
    ):
        begin(tmp_path / "a", train__init_from=source, **time_only)
    ignore = {"train__init_ignore": "params/rstg_final/(time|space)/"}
    run = run_lib.set_up(experiment(train__init_from=source, **time_only, **ignore), tmp_path / "b")
    with run.checkpoints:
        run_lib.save(run, resume.start(run), 0.0)

    whole = {"train__init_from": tmp_path / "b", "train__seed": 5}
    with pytest.raises(UserError, match=r"it lacks .*: params/rstg_final/.*gather_bias \[8\]"):
        begin(tmp_path / "c", **whole)
    fresh = {"train__init_fresh": "params/rstg_final/time/,params/rstg_final/space/"}
    _, progress = begin(tmp_path / "c", **whole, **fresh)
    _, scratch = begin(tmp_path / "d", train__seed=5)
    weights, drawn = tree(progress.state)[0], tree(scratch.state)[0]
    there = jax.device_get(trained_model.load(tmp_path / "b").variables["params"])
    for part in ("time", "space"):
        chex.assert_trees_all_equal(weights["rstg_final"][part], drawn["rstg_final"][part])
    chex.assert_trees_all_equal(
        weights["rstg_final"]["last_time"], there["rstg_final"]["last_time"]
    )
    chex.assert_trees_all_equal(weights["backbone"], there["backbone"])


def test_fresh_wins_over_what_the_checkpoint_has(source, tmp_path):
    fresh = {"train__init_fresh": "params/classifier", "train__seed": 5}
    _, progress = begin(tmp_path / "a", train__init_from=source, **fresh)
    _, scratch = begin(tmp_path / "b", train__seed=5)
    weights, drawn = tree(progress.state)[0], tree(scratch.state)[0]
    chex.assert_trees_all_equal(weights["classifier"], drawn["classifier"])
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(weights["backbone"], drawn["backbone"])


# --- the command line -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["init_from=SOURCE/checkpoints"], "/checkpoints/checkpoints does not exist"),
        (["init_from=/nowhere"], "train.init_from=/nowhere: there is no such directory, nor are"),
        (["init_from=sync_mnist/demoo"], "package, where the nearest is 'sync_mnist/demo'"),
        (["init_from=SOURCE:9"], "no checkpoint '9' in "),
        (["init_fresh=rstg"], "config section 'train': init_fresh and init_ignore need init_from"),
        (["init_from=SOURCE", "init_fresh=["], "'[' is no regular expression"),
        (["init_from=SOURCE", "init_fresh=rtsg"], "nothing of these: init_fresh 'rtsg'"),
    ],
)
def test_mistakes_are_one_line(source, tmp_path, capsys, monkeypatch, flags, sentence):
    flags = [f"--config.train.{flag.replace('SOURCE', str(source))}" for flag in flags]
    small = [f"--config.{key}={value}" for key, value in SMALL.items()]
    argv = ["--config=configs/sync_mnist.py:tiny", f"--workdir={tmp_path}/w", *small, *flags]
    monkeypatch.setattr("sys.argv", ["train.py", *argv])
    assert cli.run(train.main) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and sentence in line
    assert not (tmp_path / "w/config.json").exists()


def test_steps_are_told_from_directories():
    split = init_from.split
    assert split("a/b") == ("a/b", "last")
    assert split("a/b:best") == ("a/b", "best")
    assert split("a:b:12") == ("a:b", "12")
    assert split("a:b/12") == ("a:b/12", "last")
    assert split("~/x")[0].endswith("/x") and "~" not in split("~/x")[0]
