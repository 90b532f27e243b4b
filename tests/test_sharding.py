"""Sharded training against one device, on virtual devices."""

import logging

import chex
import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rstg_jax import sharding, steps
from rstg_jax.errors import UserError
from rstg_jax.losses import LossConfig
from rstg_jax.optim import OptimizerConfig
from rstg_jax.sharding import MeshConfig
from tests import standins

ONE, EIGHT, CUBE = MeshConfig(data=1), MeshConfig(8, 1, 1), MeshConfig(2, 2, 2)


def five_steps(module, source, mesh_config, batch_size=16):
    """Losses of five updates and the state after them."""
    mesh = sharding.make_mesh(mesh_config)
    optim = OptimizerConfig(learning_rate=0.01, weight_decay=0.01, clip_norm=1.0, ema_decay=0.9)
    recipe = steps.make_recipe(module, LossConfig(frame_weight=0.5), optim, 10)
    shape = source.batch(np.zeros(1, np.int64))["video"].shape[1:]
    abstract = steps.abstract_state(recipe, shape, mesh)
    state = steps.create_state(recipe, shape, 3, mesh)
    train_step = steps.jit_train_step(recipe, mesh, abstract)
    sums = []
    for step in range(5):
        batch = source.batch(np.arange(batch_size) + batch_size * step)
        batch = {k: batch[k] for k in ("video", "label")}
        batch["mask"] = np.ones(batch_size, np.float32)
        state, out = train_step(state, sharding.put_batch(batch, mesh))
        sums.append(jax.device_get(out))  # also keeps virtual devices from queueing up
    return sums, state


@pytest.fixture(scope="module")
def single():
    return five_steps(standins.Model(7), standins.Source(), ONE)


@pytest.mark.parametrize("mesh", [EIGHT, CUBE], ids=["8x1x1", "2x2x2"])
def test_meshes_equal_one_device(single, mesh):
    sums, state = five_steps(standins.Model(7), standins.Source(), mesh)
    chex.assert_trees_all_close(sums, single[0], rtol=1e-5, atol=1e-5)
    a, b = jax.device_get((state, single[1]))
    chex.assert_trees_all_close(a.params, b.params, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(a.average, b.average, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(a.batch_stats, b.batch_stats, rtol=1e-5, atol=1e-5)
    assert int(state.step) == 5


def test_parameters_and_their_moments_really_are_cut():
    _, state = five_steps(standins.Model(8), standins.Source(classes=8), CUBE)
    kernel = state.params["project"]["kernel"]  # [8 16]
    assert kernel.sharding.spec == PartitionSpec("fsdp", "model")
    assert kernel.addressable_shards[0].data.shape == (4, 8)
    mu = next(
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
        if "mu" in jax.tree_util.keystr(path) and leaf.shape == kernel.shape
    )
    assert mu.sharding == kernel.sharding == state.average["project"]["kernel"].sharding
    assert state.params["head"]["bias"].sharding.is_fully_replicated


def test_what_does_not_divide_is_replicated_and_said_once(caplog):
    mesh = sharding.make_mesh(CUBE)
    sharding._say_replicated.cache_clear()
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            spec = sharding.partition_spec("params/head/kernel", (16, 7), mesh)
    assert spec == PartitionSpec("fsdp", None)
    assert caplog.text.count("does not divide over model=2: replicated") == 1
    # A leading dimension, such as one kernel per scale, is never cut.
    assert sharding.partition_spec("params/u/kernel", (3, 4, 8), mesh)[0] is None


def test_rows_of_a_batch_lie_on_data_and_fsdp():
    mesh = sharding.make_mesh(CUBE)
    put = sharding.put_batch({"video": np.arange(32).reshape(8, 4)}, mesh)["video"]
    assert put.sharding.spec == PartitionSpec(("data", "fsdp"))
    assert {s.data.shape for s in put.addressable_shards} == {(2, 4)}
    np.testing.assert_array_equal(put, np.arange(32).reshape(8, 4))


def test_meshes_that_do_not_fit_are_refused():
    assert sharding.make_mesh(MeshConfig()).shape == {"data": 8, "fsdp": 1, "model": 1}
    assert sharding.make_mesh(MeshConfig(-1, 2, 2)).shape["data"] == 2
    assert sharding.make_mesh(ONE).size == 1
    with pytest.raises(UserError, match=r"data=3 x fsdp=3 x model=1 does not fit 8 devices"):
        sharding.make_mesh(MeshConfig(3, 3, 1))
    with pytest.raises(UserError, match="does not fit 8 devices"):
        sharding.make_mesh(MeshConfig(-1, 3, 1))
    assert sharding.make_mesh(MeshConfig(3, 3, 1), or_data_parallel=True).shape["data"] == 8
    with pytest.raises(ValueError, match="at most one of them -1"):
        MeshConfig(-1, -1, 1)


def test_no_other_module_names_a_mesh_axis():
    from pathlib import Path

    for path in Path(sharding.__file__).parent.rglob("*.py"):
        if path.name != "sharding.py":
            assert '"fsdp"' not in path.read_text(), path
