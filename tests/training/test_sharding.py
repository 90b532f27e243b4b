"""Sharded training against one device, on virtual devices."""

import dataclasses
import functools
import logging
import re
from pathlib import Path
from typing import NamedTuple

import chex
import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from configs import sync_mnist
from rstg_jax.errors import UserError
from rstg_jax.models import classifier
from rstg_jax.models.backbones.resnet3d import ResNet3DConfig
from rstg_jax.models.config import ModelConfig
from rstg_jax.models.heads import GlobalPooling
from rstg_jax.rstg import presets
from rstg_jax.training import sharding, steps, train_state
from rstg_jax.training.losses import LossConfig
from rstg_jax.training.optim import OptimizerConfig
from rstg_jax.training.sharding import MeshConfig

ONE, EIGHT, CUBE = MeshConfig(data=1), MeshConfig(8, 1, 1), MeshConfig(2, 2, 2)
MESHES = {
    "8x1x1": EIGHT,
    "2x4x1": MeshConfig(2, 4, 1),
    "2x2x2": CUBE,
    "1x1x8": MeshConfig(1, 1, 8),
}
DATA = dataclasses.replace(sync_mnist.tiny().data, num_frames=3)
BATCH = 40  # nothing but an axis of all clips is a multiple of it
LOSS = LossConfig(frame_weight=0.5)
# Not Adam: a bias that softmax ignores has a gradient of rounding noise, which it blows up.
OPTIM = OptimizerConfig("nesterov", 0.01, clip_norm=1.0, ema_decay=0.9)

SYNC_MNIST = sync_mnist.tiny().model
# Two blocks inside a network over frames, with convolutions that training sums over all devices.
SMALL_I3D = ModelConfig(
    backbone=ResNet3DConfig(
        depths=(1, 1, 1),
        width=8,
        temporal_kernels=((1,), (3,), (3,)),
        spatial_strides=(1, 2, 2),
        temporal_strides=(1, 1, 1),
        stem_kernel=(3, 3, 3),
        pool1_stride=0,
        pool2=1,
        input_mean=(20.0,),
        input_scale=(60.0,),
    ),
    rstg=presets.official("something_something", 2, dim=8, scales=(2, 1)),
    rstg_at=("res3", "res4"),
    head=GlobalPooling(),
    branch_norm="clip",
)
MODELS = {"SyncMNIST": SYNC_MNIST, "small I3D": SMALL_I3D}
EACH_MODEL = pytest.mark.parametrize(
    "model", ["SyncMNIST", pytest.param("small I3D", marks=pytest.mark.slow)]
)


class Compiled(NamedTuple):
    """A training step for a mesh, and what it needs."""

    step: jax.stages.Compiled
    setup: train_state.TrainSetup
    mesh: jax.sharding.Mesh


@functools.cache
def compiled(model, mesh_name):
    """The training step of a model on a mesh, or on one device if it has no name."""
    module = classifier.build(MODELS[model], 4)
    mesh = sharding.make_mesh(MESHES.get(mesh_name, ONE))
    setup = train_state.make_setup(module, LOSS, OPTIM, 10)
    abstract = train_state.abstract_state(setup, DATA.clip_shape, mesh)
    batch = {
        "video": jax.ShapeDtypeStruct((BATCH, *DATA.clip_shape), np.uint8),
        "label": jax.ShapeDtypeStruct((BATCH,), np.int32),
        "mask": jax.ShapeDtypeStruct((BATCH,), np.float32),
    }
    step = steps.jit_train_step(setup, mesh, abstract).lower(abstract, batch).compile()
    return Compiled(step, setup, mesh)


@functools.cache
def first_state(model):
    """Weights that no gate hides: the gains of blocks inside a network start at 0."""
    one = compiled(model, "")
    state = train_state.create_state(one.setup, DATA.clip_shape, 3, one.mesh)
    rng = np.random.default_rng(0)

    def visible(value):
        return value if value.any() else rng.normal(size=value.shape).astype(value.dtype) / 4

    params = jax.tree.map(visible, jax.device_get(state.params))
    return jax.device_get(state).replace(params=params, ema_params=params)


@functools.cache
def five_steps(model, mesh_name):
    """Sums of five updates on real videos, and the state after them."""
    step, setup, mesh = compiled(model, mesh_name)
    source = DATA.open("train")
    abstract = train_state.abstract_state(setup, DATA.clip_shape, mesh)
    state = jax.device_put(first_state(model), train_state.shardings_of(abstract))
    sums = []
    for number in range(5):
        batch = source.batch(np.arange(BATCH) + BATCH * number)
        batch = {"video": batch["video"], "label": batch["label"], "mask": np.ones(BATCH, "f4")}
        state, out = step(state, sharding.put_batch(batch, mesh))
        sums.append(jax.device_get(out))  # also keeps virtual devices from queueing up
    return sums, state


@pytest.mark.parametrize("mesh", MESHES)
@EACH_MODEL
def test_meshes_equal_one_device(model, mesh):
    sums, state = five_steps(model, mesh)
    one_sums, one_state = five_steps(model, "")
    chex.assert_trees_all_close(sums, one_sums, rtol=1e-5, atol=1e-5)
    a, b = jax.device_get((state, one_state))
    chex.assert_trees_all_close(a.params, b.params, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(a.ema_params, b.ema_params, rtol=1e-5, atol=1e-5)
    assert int(a.step) == 5
    moved = jax.tree.map(
        lambda new, old: np.abs(new - old).max(), a.params, first_state(model).params
    )
    assert np.mean([move > 1e-4 for move in jax.tree.leaves(moved)]) > 0.8


def collectives(model, mesh):
    """Names of the collectives of a training step, each with the axes of its results."""
    text = compiled(model, mesh).step.as_text()
    found = re.findall(r"= (.*?) (all-\w[\w-]*|collective-[\w-]+|reduce-scatter)\(", text)
    return [
        (
            name,
            [tuple(map(int, re.findall(r"\d+", axes))) for axes in re.findall(r"\[(.*?)\]", out)],
        )
        for out, name in found
    ]


@EACH_MODEL
def test_data_parallel_steps_sum_gradients_and_no_more(model):
    assert {name for name, _ in collectives(model, "8x1x1")} == {"all-reduce"}


@EACH_MODEL
def test_fsdp_gathers_weights_and_no_more(model):
    weights = {
        tuple(n for n in w.shape if n > 1) for w in jax.tree.leaves(first_state(model).params)
    }
    found = collectives(model, "2x4x1")
    assert {name for name, _ in found} == {"all-reduce", "all-gather"}
    for name, results in found:
        if name == "all-gather":
            assert {tuple(n for n in shape if n > 1) for shape in results} <= weights


@EACH_MODEL
def test_a_model_axis_gathers_features_of_own_clips_only(model):
    """Layers that are cut by their outputs need all features, but never another device's clips."""
    found = collectives(model, "2x2x2")
    shapes = [shape for _, results in found for shape in results]
    own = [shape for shape in shapes if BATCH // 4 in shape]
    assert own
    assert not [shape for shape in shapes if any(n % BATCH == 0 for n in shape)]


def test_parameters_and_their_moments_really_are_cut():
    _, state = five_steps("SyncMNIST", "2x2x2")
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
    with pytest.raises(UserError, match="at most one of them -1"):
        MeshConfig(-1, -1, 1)


def test_batches_that_devices_cannot_share_are_refused():
    """A run of 1, 2 or 8 devices that goes on with three."""
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:3])
    with pytest.raises(UserError, match=r"'train.batch_size': 8 is not divisible by the 3.*use 9"):
        sharding.check_batch_size(8, mesh, "train.batch_size")
    sharding.check_batch_size(9, mesh, "train.batch_size")


def test_no_other_module_names_a_mesh_axis():
    for path in Path(sharding.__file__).parent.rglob("*.py"):
        if path.name != "sharding.py":
            assert '"fsdp"' not in path.read_text(), path


@dataclasses.dataclass(frozen=True)
class Device:
    """A device of several slices, as far as laying it out asks."""

    id: int
    slice_index: int
    process_index: int = 0
    platform: str = "gpu"
    device_kind: str = "card"


@pytest.mark.parametrize(
    ("sizes", "slices_on"), [((8, 1, 1), 0), ((4, 2, 1), 0), ((2, 4, 1), 0), ((1, 4, 2), 1)]
)
def test_the_outermost_axis_extends_over_slices(sizes, slices_on):
    """Two machines of four devices, named in a mixed order: half an axis is on each."""
    devices = [Device(id=i, slice_index=i % 2) for i in range(8)]
    laid_out = sharding.arrange(sizes, devices)
    assert laid_out.shape == sizes
    assert sorted(device.id for device in laid_out.flat) == list(range(8))
    halves = np.split(laid_out, 2, axis=slices_on)
    assert [{d.slice_index for d in half.flat} for half in halves] == [{0}, {1}]


def test_axes_that_slices_cut_are_refused():
    devices = [Device(id=i, slice_index=i // 2) for i in range(6)]
    with pytest.raises(UserError, match=r"cut into 3 slices .*data a multiple of 3"):
        sharding.arrange((1, 2, 2), devices)
