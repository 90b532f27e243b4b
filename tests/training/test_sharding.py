"""Sharded training against one device, on virtual devices."""

import functools
import logging
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from configs import sync_mnist
from rstg_jax.errors import UserError
from rstg_jax.models import classifier
from rstg_jax.training import sharding, steps
from rstg_jax.training.losses import LossConfig
from rstg_jax.training.optim import OptimizerConfig
from rstg_jax.training.sharding import MeshConfig

ONE, EIGHT, CUBE = MeshConfig(data=1), MeshConfig(8, 1, 1), MeshConfig(2, 2, 2)
BATCH = 16


@functools.cache
def five_steps(mesh_config):
    """Losses of five updates of the real model, on real videos, and the state after them."""
    experiment = sync_mnist.tiny()
    source = experiment.data.open("train")
    module = classifier.build(experiment.model, len(source.label_names))
    mesh = sharding.make_mesh(mesh_config)
    # Not Adam: a bias that softmax ignores has a gradient of rounding noise, which it blows up.
    optim = OptimizerConfig("nesterov", 0.01, clip_norm=1.0, ema_decay=0.9)
    setup = steps.make_setup(module, LossConfig(frame_weight=0.5), optim, 10)
    shape = source.batch(np.zeros(1, np.int64))["video"].shape[1:]
    abstract = steps.abstract_state(setup, shape, mesh)
    state = steps.create_state(setup, shape, 3, mesh)
    train_step = steps.jit_train_step(setup, mesh, abstract)
    sums = []
    for step in range(5):
        batch = source.batch(np.arange(BATCH) + BATCH * step)
        batch = {"video": batch["video"], "label": batch["label"], "mask": np.ones(BATCH, "f4")}
        state, out = train_step(state, sharding.put_batch(batch, mesh))
        sums.append(jax.device_get(out))  # also keeps virtual devices from queueing up
    return sums, state


@pytest.mark.parametrize("mesh", [EIGHT, CUBE], ids=["8x1x1", "2x2x2"])
def test_meshes_equal_one_device(mesh):
    sums, state = five_steps(mesh)
    one_sums, one_state = five_steps(ONE)
    chex.assert_trees_all_close(sums, one_sums, rtol=1e-5, atol=1e-5)
    a, b = jax.device_get((state, one_state))
    chex.assert_trees_all_close(a.params, b.params, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(a.ema_params, b.ema_params, rtol=1e-5, atol=1e-5)
    assert int(a.step) == 5
    losses = [s["objective"] for s in sums]
    assert len(set(map(float, losses))) == 5  # the weights do move


def test_data_parallel_step_moves_no_activations():
    experiment = sync_mnist.tiny()
    module = classifier.build(experiment.model, 4)
    mesh = sharding.make_mesh(EIGHT)
    setup = steps.make_setup(module, LossConfig(frame_weight=0.5), OptimizerConfig(), 10)
    shape = (4, 16, 16, 1)
    abstract = steps.abstract_state(setup, shape, mesh)
    batch = {
        "video": jax.ShapeDtypeStruct((BATCH, *shape), np.uint8),
        "label": jax.ShapeDtypeStruct((BATCH,), np.int32),
        "mask": jax.ShapeDtypeStruct((BATCH,), np.float32),
    }
    text = steps.jit_train_step(setup, mesh, abstract).lower(abstract, batch).compile().as_text()
    assert "all-reduce" in text  # of the gradients
    for collective in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert f" {collective}(" not in text, collective


def test_parameters_and_their_moments_really_are_cut():
    _, state = five_steps(CUBE)
    kernel = state.params["rstg_final"]["time"]["lstm"]["input_kernel"]  # [8 32]
    assert kernel.sharding.spec == PartitionSpec("fsdp", "model")
    assert kernel.addressable_shards[0].data.shape == (4, 16)
    moments = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
        if "['time']['lstm']['input_kernel']" in jax.tree_util.keystr(path)
    ]
    assert len(moments) == 1
    average = state.ema_params["rstg_final"]["time"]["lstm"]["input_kernel"]
    assert {leaf.sharding for leaf in (*moments, average)} == {kernel.sharding}
    assert state.params["classifier"]["bias"].sharding.is_fully_replicated


def test_what_does_not_divide_is_replicated_and_said_once(caplog):
    mesh = sharding.make_mesh(CUBE)
    sharding._log_replicated.cache_clear()
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
    for path in Path(sharding.__file__).parent.rglob("*.py"):
        if path.name != "sharding.py":
            assert '"fsdp"' not in path.read_text(), path
