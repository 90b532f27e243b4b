"""Checkpoints: what is kept, exactness, any mesh, failures while saving."""

import dataclasses
import gc
import os
import resource

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from rstg_jax import config
from rstg_jax.errors import UserError
from rstg_jax.training import (
    checkpoint,
    integrity,
    same_run,
    sharding,
    train_state,
    trained_model,
)
from rstg_jax.training.checkpoint import Checkpoints
from rstg_jax.training.losses import LossConfig
from rstg_jax.training.optim import OptimizerConfig
from rstg_jax.training.sharding import MeshConfig
from tests import standins

SHAPE = (3, 32, 32, 1)

# When Orbax fails half-way it leaves coroutines behind that nobody awaits.
abandons_coroutines = pytest.mark.filterwarnings(
    "ignore:coroutine .* was never awaited:RuntimeWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


@pytest.fixture
def collect_garbage():
    """Lets what a test abandons be reported while the test's filters hold."""
    yield
    gc.collect()


def make(mesh_config):
    mesh = sharding.make_mesh(mesh_config)
    setup = train_state.make_setup(
        standins.Model(8), LossConfig(), OptimizerConfig(ema_decay=0.5), 9
    )
    return setup, mesh, train_state.abstract_state(setup, SHAPE, mesh)


@pytest.fixture(scope="module")
def state():
    setup, mesh, _ = make(MeshConfig(data=1))
    return train_state.create_state(setup, SHAPE, 5, mesh)


def at(state, step):
    return state.replace(step=jnp.int32(step))


def test_keeps_the_latest_and_the_best(tmp_path, state):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step, top1 in [(1, 0.2), (2, 0.9), (3, None), (4, 0.5), (5, None), (6, 0.7)]:
            checkpoints.save(step, at(state, step), {"step": step}, top1 and {"top1": top1})
        checkpoints.wait()
        assert (checkpoints.latest, checkpoints.best, checkpoints.best_score) == (6, 2, 0.9)
        assert sorted(os.listdir(checkpoints.path)) == ["2", "5", "6"]
    with Checkpoints(tmp_path, read_only=True) as again:
        assert again.resolve("best") == 2
        assert again.resolve("last") == 6
        assert again.resolve("5") == 5
        assert again.meta(2) == {"step": 2}
        with pytest.raises(UserError, match=r"no checkpoint '3' .*choose best, last, 2, 5, 6"):
            again.resolve("3")


def test_restores_bit_for_bit_on_any_mesh(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, at(state, 7), {}, None)
    for mesh_config in (MeshConfig(data=1), MeshConfig(2, 2, 2)):
        _, _, abstract = make(mesh_config)
        with Checkpoints(tmp_path, read_only=True) as checkpoints:
            restored = checkpoints.restore(7, abstract)
        chex.assert_trees_all_equal(jax.device_get(restored), jax.device_get(at(state, 7)))
        jax.tree.map(lambda x, a: chex.assert_equal(x.sharding, a.sharding), restored, abstract)


@pytest.mark.parametrize("averaged", [True, False])
def test_variables_alone_are_read(averaged, tmp_path, state):
    average = jax.tree.map(lambda x: x + 1, state.params) if averaged else None
    state = state.replace(ema_params=average)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {}, None)
    mesh = sharding.make_mesh(MeshConfig(2, 2, 2))
    abstract = train_state.abstract_variables(standins.Model(8), SHAPE, mesh)
    wanted = traverse_util.flatten_dict(abstract, sep="/")
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        shapes = checkpoints.stored_variables(1)
        restored = checkpoints.restore_variables(1, shapes, wanted)
    assert {path: leaf.shape for path, leaf in shapes.items()} == {
        path: leaf.shape for path, leaf in wanted.items()
    }
    expected = traverse_util.flatten_dict(state.variables, sep="/")
    chex.assert_trees_all_equal(jax.device_get(restored), jax.device_get(expected))
    jax.tree.map(lambda x, a: chex.assert_equal(x.sharding, a.sharding), restored, wanted)


def test_meta_keeps_every_digit(tmp_path, state):
    meta = {"window": {"loss": 0.1 + 0.2, "count": 2**60}, "nothing": None}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, checkpoint.plain(meta), None)
        checkpoints.wait()
        assert checkpoints.meta(1) == meta


def test_another_config_is_refused_and_the_difference_named():
    there = standins.experiment()
    data = {"train": {"digits_sha256": "a", "digits": 5}}
    meta = {"config": config.to_dict(there), "data": data}
    here = dataclasses.replace(
        there,
        mesh=MeshConfig(2, 2, 2),
        train=dataclasses.replace(there.train, total_steps=99, log_every=1, keep=7),
    )
    same_run.check(here, data, meta, "dir")
    del meta["config"]["loss"]["frame_start"]  # a key that came later, at its default
    same_run.check(here, data, meta, "dir")
    everything = dataclasses.replace(
        here.train,
        total_steps=None,
        total_epochs=2.0,
        eval_batch_size=3,
        eval_every=4,
        checkpoint_every=5,
        accumulate=2,
        max_queued_steps=3,
        max_seconds=60.0,
        on_nan="skip:3",
    )
    same_run.check(dataclasses.replace(here, train=everything), data, meta, "dir")
    other = {"train": {"digits_sha256": "b", "digits": 5}}
    with pytest.raises(UserError, match=r"train\.digits_sha256: a != b"):
        same_run.check(here, other, meta, "dir")
    here = dataclasses.replace(here, optim=OptimizerConfig(learning_rate=0.5, ema_decay=0.9))
    with pytest.raises(UserError) as error:
        same_run.check(here, data, meta, "dir")
    assert "optim.learning_rate: 0.01 != 0.5; optim.clip_norm: 1.0 != None" in str(error.value)
    assert "mesh" not in str(error.value)


@abandons_coroutines
def test_a_disk_that_fills_up_keeps_the_last_good_checkpoint(tmp_path, state, collect_garbage):
    """The system refuses to write more than 2 kB to a file, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = state.replace(
        params=state.params | {"more": jnp.array(np.random.default_rng(0).random(9999))}
    )
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {}, {"top1": 0.5})
        checkpoints.wait()
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
            with pytest.raises(UserError) as error:
                checkpoints.save(2, big, {}, {"top1": 0.6})
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    message = str(error.value)
    assert "cannot save the checkpoint of step 2" in message
    assert "last good checkpoint: step 1 is kept" in message
    assert "\n" not in message
    _, _, abstract = make(MeshConfig(data=1))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest == 1
        chex.assert_trees_all_equal(checkpoints.restore(1, abstract), state)


def test_the_cause_is_not_lost_among_the_paths_of_tensorstore(tmp_path, state, monkeypatch):
    """As it once put it, with open files at their limit; the places are as long as they were."""
    place = f'"{tmp_path}/checkpoints/10.orbax-checkpoint-tmp/state/{"d" * 60}/'
    message = (
        f'RESOURCE_EXHAUSTED: Error opening "zarr" driver: Error reading "params.bias/.zarray" in '
        f'OCDBT database at local file {place}": Error reading local file {place}manifest.ocdbt": '
        f"Failed to open: {place}manifest.ocdbt.__lock\": Too many open files [os_error_code='24'] "
        """[tensorstore_spec='{\\"context\\":{\\"cache_pool\\":{}},\\"open\\":true,"""
        f"""\\"path\\":{place}\\",\\"store_data_equal_to_fill_value\\":true}}']"""
    )

    def fail(*_, **__):
        raise ValueError(message)

    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "save", fail)
        with pytest.raises(UserError) as error:
            checkpoints.save(10, state, {}, None)
    said = str(error.value)
    assert said.startswith("cannot save the checkpoint of step 10 in") and "RESOURCE_EXH" in said
    assert "Too many open files; the last good checkpoint" in said and len(said) < 700


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "checkpoints").write_text("a file in the way")
    with pytest.raises(UserError, match=r"cannot use .*checkpoints"):
        Checkpoints(tmp_path)


def test_no_checkpoint_at_all(tmp_path):
    with pytest.raises(UserError, match="no checkpoint in"):
        trained_model.load(tmp_path)


@abandons_coroutines
def test_a_damaged_checkpoint_is_named(tmp_path, state, collect_garbage):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {}, None)
    # As written by a version without manifests: Orbax itself has to notice.
    (tmp_path / "checkpoints/1" / integrity.MANIFEST).unlink()
    (tmp_path / "checkpoints/1/meta/metadata").write_text("{")
    _, _, abstract = make(MeshConfig(data=1))
    other = dataclasses.replace(make(MeshConfig(data=1))[0], module=standins.Model(8, dim=5))
    wrong = train_state.abstract_state(other, SHAPE, sharding.make_mesh(MeshConfig(data=1)))
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        with pytest.raises(UserError, match=r"cannot read checkpoint .*/1"):
            checkpoints.meta(1)
        with pytest.raises(UserError, match=r"cannot read checkpoint .*/1"):
            checkpoints.restore(1, wrong)
        # Names that are numbers, and a clip of three sizes.
        labels = '{"config": {}, "label_names": [1], "video_shape": [1, 2, 2, 1], "total_steps": 1}'
        shape = '{"config": {}, "label_names": [], "video_shape": [2, 2, 1], "total_steps": 1}'
        for text in ("[" * 100_000, "[]", "{}", labels, shape):
            (tmp_path / "checkpoints/1/meta/metadata").write_text(text)
            with pytest.raises(UserError, match=r"cannot read checkpoint .*/1"):
                checkpoints.run_meta(1)
        for path in (tmp_path / "checkpoints/1/state").rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(UserError, match=r"cannot read checkpoint .*/1"):
            checkpoints.restore(1, abstract)
