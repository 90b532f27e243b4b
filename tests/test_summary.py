"""Counts of parameters, multiply-accumulates and memory against sums made by hand and by XLA."""

import functools
import json
import math
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs import folder, sync_mnist
from rstg_jax import cli, config, data, summary
from rstg_jax.layers import linear
from rstg_jax.layers.conv import Conv2D
from rstg_jax.models import classifier
from rstg_jax.models import flops as costs
from rstg_jax.models.backbones import resnet3d
from rstg_jax.models.config import ModelConfig
from rstg_jax.models.heads import GlobalPooling
from rstg_jax.rstg import presets
from rstg_jax.rstg.block import RSTG
from rstg_jax.rstg.recurrent_cells import FrameRNN
from rstg_jax.rstg.region_graph import RegionGraph
from rstg_jax.training import steps, train_state
from rstg_jax.training.experiment import Experiment, TrainConfig


def count(function, *shapes):
    """MACs of a function of float32 arrays."""
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return costs.macs(jax.make_jaxpr(function)(*arrays).jaxpr).total()


def count_module(module, shape):
    arrays = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), arrays)
    return costs.macs(jax.make_jaxpr(module.apply)(variables, arrays).jaxpr).total()


# --- products, by hand ----------------------------------------------------------------------------


def conv(x, kernel, **choices):
    layout = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    return jax.lax.conv_general_dilated(x, kernel, **layout | choices)


def test_products_and_convolutions():
    assert count(jnp.matmul, (3, 5), (5, 7)) == 3 * 5 * 7
    assert count(functools.partial(jnp.einsum, "bij,bkj->bik"), (2, 3, 5), (2, 4, 5)) == 2 * 60
    strided = functools.partial(conv, window_strides=(2, 2), padding="VALID")
    assert count(strided, (2, 9, 9, 3), (3, 3, 3, 4)) == 2 * 4 * 4 * (3 * 3 * 3) * 4
    grouped = functools.partial(conv, window_strides=(1, 1), padding="SAME", feature_group_count=3)
    assert count(grouped, (1, 5, 5, 6), (3, 3, 2, 9)) == 5 * 5 * (3 * 3 * 2) * 9
    assert count(lambda x: jnp.tanh(x * x).sum(), (3, 5)) == 0


def test_what_calls_other_jaxprs():
    product, shapes = jnp.matmul, ((3, 5), (5, 7))
    once = 3 * 5 * 7
    assert count(jax.jit(product), *shapes) == once
    assert count(jax.checkpoint(product), *shapes) == once
    gradient = jax.grad(lambda x, w: jnp.square(x @ w).sum(), (0, 1))
    assert count(gradient, *shapes) == 3 * once  # forward, and a product for each factor
    assert count(lambda x, w: jax.nn.relu(jax.jit(product)(x, w)), *shapes) == once
    assert count(jax.vmap(product, (0, None)), (11, 3, 5), (5, 7)) == 11 * once
    squares = jax.custom_vjp(product)
    squares.defvjp(lambda x, w: (x @ w, (x, w)), lambda kept, g: (g @ kept[1].T, kept[0].T @ g))
    assert count(squares, *shapes) == once
    assert count(jax.grad(lambda x, w: squares(x, w).sum(), (0, 1)), *shapes) == 3 * once

    def either(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w.T @ w, lambda: x @ w)

    assert count(either, *shapes) == 3 * once

    def fixed(x, w):
        return jax.lax.fori_loop(0, 6, lambda _, y: jnp.tanh(y @ w @ w.T), x)

    assert count(fixed, *shapes) == 6 * 2 * once

    def unknown(x, w):
        return jax.lax.while_loop(lambda y: y[0, 0] > 0, lambda y: y @ w @ w.T, x)

    with pytest.raises(ValueError, match="loop of unknown length"):
        count(unknown, *shapes)


@pytest.mark.parametrize("lowering", ["xla", "matmul"])
def test_the_gradient_of_a_convolution_costs_twice_as_much(lowering):
    """The one of its input is a convolution of a map with zeros between its pixels."""
    layer, x = Conv2D(5, 2, 2, "VALID", lowering), jnp.ones((2, 12, 8, 3))
    variables = jax.eval_shape(layer.init, jax.random.key(0), x)
    gradient = jax.grad(lambda v, x: jnp.square(layer.apply(v, x)).sum(), (0, 1))
    once = 2 * 6 * 4 * (2 * 2 * 3) * 5
    assert costs.macs(jax.make_jaxpr(gradient)(variables, x).jaxpr).total() == 3 * once


def test_scan_of_the_lstm_counts_every_frame():
    nodes, frames, clips, dim = 5, 7, 2, 6
    assert count_module(FrameRNN(dim), (nodes, frames, clips, dim)) == (
        nodes * frames * clips * (dim * 4 * dim + dim * 4 * dim)
    )


def test_xla_counts_the_same_operations_on_a_model_without_scans():
    """XLA also counts what is elementwise, which is little in a wide model."""

    def products(x, kernel, w):
        return jnp.tensordot(conv(x, kernel, window_strides=(2, 2), padding="VALID"), w, 1)

    shapes = ((2, 9, 9, 3), (3, 3, 3, 4), (4, 8))
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    assert flops(products, *arrays) == 2 * count(products, *shapes)

    block = RSTG(presets.modern(dim=128, stages=("space", "space")))
    features = jax.ShapeDtypeStruct((2, 3, 6, 6, 32), jnp.float32)
    variables = jax.eval_shape(block.init, jax.random.key(0), features)
    ours = costs.macs(jax.make_jaxpr(block.apply)(variables, features).jaxpr).total()
    assert 1 < flops(block.apply, variables, features) / (2 * ours) < 1.05


def flops(function, *arrays):
    return jax.jit(function).lower(*arrays).cost_analysis()["flops"]


def test_lowering_for_cpus_changes_no_count(monkeypatch):
    experiment = sync_mnist.tiny()
    whole = summary.summarise(experiment)
    monkeypatch.setattr(linear, "flattens", lambda: True)
    assert summary.summarise(experiment) == whole
    assert count_module(FrameRNN(6), (5, 7, 2, 6)) == 5 * 7 * 2 * 2 * 6 * 24
    x, w = jnp.ones((2, 3, 5)), jnp.ones((5, 7))
    assert "reshape" in str(jax.make_jaxpr(linear.linear)(x, w))  # the patch reaches the layers
    shape = (2, 12, 11, 3)
    layers = [Conv2D(5, 3, 2, "VALID", lowering) for lowering in ("xla", "matmul")]
    assert {count_module(layer, shape) for layer in layers} == {2 * 5 * 5 * 27 * 5}


# --- whole models ---------------------------------------------------------------------------------


def block_macs(settings, frames):
    """MACs of the block on a 6x6 map of the block's width, one clip, by a closed formula."""
    graph = RegionGraph(settings.scales)
    n, d, p = graph.num_nodes, settings.dim, 36
    # Only neighbours send; official masking lets all ordered pairs send.
    e = n * n if settings.masking == "multiply" else graph.adjacency.sum()
    time = n * 2 * (d * 4 * d)
    send = n * (d * 2 * d) + e * (2 * n) * d + e * d * d  # split first layer, ends, second layer
    gather = 2 * n * d + n * e * d  # "additive" scores, weighted sum
    update = n * (2 * d * d + d * d)
    spaces, times = settings.stages.count("space"), settings.stages.count("time")
    once = spaces * 2 * n * p * d  # position maps are the same in every frame
    return once + frames * (n * 36 * d + times * time + spaces * (send + gather + update))


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_published_sizes(variant):
    experiment = sync_mnist.get_config(variant)
    found = summary.summarise(experiment)
    modules = found["modules"]
    module = classifier.build(experiment.model, 46)
    video = jax.ShapeDtypeStruct((1, 10, 64, 64, 1), jnp.uint8)
    shapes = jax.eval_shape(module.init, jax.random.key(0), video)["params"]
    assert modules[""]["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert modules[""]["parameters"] == sum(map(math.prod, found["arrays"].values()))
    assert modules[""]["parameters"] == pytest.approx(10.57e6, rel=1e-3)

    sides, taps = (62, 29, 12), (9, 9 * 512, 9 * 512)
    cnn = 10 * sum(side**2 * tap * 512 for side, tap in zip(sides, taps, strict=True))
    assert modules["backbone"]["macs"] == cnn
    assert cnn == pytest.approx(23.4e9, rel=2e-3)
    assert modules["rstg_final"]["macs"] == block_macs(experiment.model.rstg, frames=10)
    assert modules["rstg_final"]["macs"] < 6.35e9  # which sends along all pairs, unsplit
    assert modules["classifier"]["macs"] == 11 * 512 * 46  # every frame's, and the clip's
    parts = [modules[name] for name in ("backbone", "rstg_final", "classifier")]
    for figure in ("parameters", "macs"):
        assert sum(part[figure] for part in parts) == modules[""][figure]


def test_published_size_of_i3d_with_graphs_inside():
    block = presets.official("something_something")
    model = ModelConfig(
        backbone=resnet3d.official("i3d"),
        rstg=block,
        rstg_at=("res3", "res4"),
        head=GlobalPooling(pool_window=14),
        branch_norm="clip",
    )
    clips = data.SomethingSomethingConfig()
    train = TrainConfig(total_steps=1)
    modules = summary.summarise(Experiment("i3d", train, model, clips))["modules"]
    assert modules["backbone"]["macs"] == pytest.approx(151.3e9, rel=3e-4)
    plain = modules["backbone"]["parameters"] + modules["classifier"]["parameters"]
    assert plain == pytest.approx(27.6e6, rel=1e-3)
    # The blocks are called inside the backbone, and have rows of their own; back to the map:
    narrow, wide = modules["rstg_res3_2"], modules["rstg_res4_4"]
    assert narrow["macs"] == 16 * (space_time_macs(block, 28 * 28) + 14 * 28 * 28 * 512)
    assert wide["macs"] - narrow["macs"] == 16 * (
        2 * 14 * 1024 * 512 + 2 * 14 * (14 * 14 * 1024 - 28 * 28 * 512)
    )
    assert narrow["activation_bytes"] > wide["activation_bytes"] > 16 * 14 * 14 * 1024 * 4


def space_time_macs(settings, pixels):
    """MACs of one frame in the block with "dot" attention and all pairs, without positions."""
    n, d = 14, settings.dim
    send = n * (d * 2 * d) + n * n * (2 * n) * d + n * n * d * d
    gather = 2 * n * d * d + n * n * d + n * n * n * d  # queries and keys, logits, weighted sum
    update = n * (2 * d * d + d * d)
    return n * pixels * d + 4 * n * 2 * (d * 4 * d) + 3 * (send + gather + update)


# --- memory ---------------------------------------------------------------------------------------


def kept_bytes(function, *shapes):
    """What the gradient of a function of float32 arrays in its first argument keeps."""

    def pullback(x, *rest):
        return jax.vjp(lambda x: function(x, *rest), x)[1]

    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return costs.result_bytes(jax.make_jaxpr(pullback)(*arrays).jaxpr).total()


def test_kept_arrays_by_hand():
    def layer(w, x):
        return (jnp.sin(x @ w) * 2).sum()

    shapes = ((5, 7), (3, 5))
    assert kept_bytes(layer, *shapes) == 3 * 7 * 4  # the cosine; x is there anyway
    assert kept_bytes(jax.checkpoint(layer), *shapes) == 0
    assert kept_bytes(lambda w, x: (x @ w).sum(), *shapes) == 0

    def twice(w, x):
        y = jnp.exp(x * w[:, :3])  # its own derivative, which the square needs as well
        return (y.reshape(15) ** 2).sum()

    assert kept_bytes(twice, (5, 3), (5, 3)) == 2 * 5 * 3 * 4  # exp and 2 exp


def test_estimate_against_the_memory_of_the_compiled_step():
    experiment = sync_mnist.tiny()
    found = summary.summarise(experiment)
    setup = train_state.make_setup(
        classifier.build(experiment.model, 4), experiment.loss, experiment.optim, 10
    )
    state = jax.eval_shape(
        functools.partial(train_state.init_state, setup, experiment.data.clip_shape), jnp.int32(0)
    )
    batch = summary.abstract_batch(experiment, 4, 16)
    step = jax.jit(functools.partial(steps.train_step, setup)).lower(state, batch).compile()
    needed = step.memory_analysis()
    estimate = 16 * found["modules"][""]["activation_bytes"] + found["fixed_bytes"]
    assert 0.8 < needed.temp_size_in_bytes / estimate < 1.6
    arguments = found["state_bytes"] + sum(
        leaf.size * leaf.dtype.itemsize for leaf in batch.values()
    )
    assert needed.argument_size_in_bytes == pytest.approx(arguments, rel=0.01)


def test_memory_grows_with_the_batch_as_stated():
    """In bfloat16 the cast weights are kept too, once a batch."""
    experiment = config.override(sync_mnist.tiny(), {"model.dtype": "bfloat16"})
    found = summary.summarise(experiment)
    assert found["fixed_bytes"] > 0
    setup = train_state.make_setup(
        classifier.build(experiment.model, 4), experiment.loss, experiment.optim, 10
    )
    state = jax.eval_shape(
        functools.partial(train_state.init_state, setup, experiment.data.clip_shape), jnp.int32(0)
    )
    five = summary.kept(setup, state, experiment, 4, 5).total()
    assert five == 5 * found["modules"][""]["activation_bytes"] + found["fixed_bytes"]


# --- the command line -----------------------------------------------------------------------------


def run(monkeypatch, capsys, *flags):
    """As a user types it, with data that must not be opened."""

    def refuse(*_, **__):
        raise AssertionError("data was opened")

    for settings in (data.SyncMNISTConfig, data.SomethingSomethingConfig, data.FolderConfig):
        monkeypatch.setattr(settings, "open", refuse)
    monkeypatch.setattr(sys, "argv", ["summary", *flags])
    status = cli.run(summary.main)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize("flag", ["--classes=0", "--depth=-1"])
def test_numbers_that_mean_nothing_are_refused(flag, monkeypatch, capsys):
    """No classes counted as all of them, and a negative depth printed an empty table."""
    with pytest.raises(SystemExit):
        run(monkeypatch, capsys, "--config=configs/sync_mnist.py:tiny", flag)
    assert "--depth is at least 0, --classes at least 1" in capsys.readouterr().err


def test_table_and_json(monkeypatch, capsys):
    flags = ["--config=configs/sync_mnist.py:tiny", "--config.model.rstg.dim=16"]
    status, text, _ = run(monkeypatch, capsys, *flags, "--depth=3")
    assert status == 0
    status, plain, _ = run(monkeypatch, capsys, *flags, "--json")
    found = json.loads(plain)
    total = found["modules"][""]["parameters"]
    assert re.search(rf"^all +{total:,} ", text, re.M)
    assert re.search(r"^  +lstm +\d", text, re.M) and re.search(r"^classifier +68 ", text, re.M)
    assert "[16, 4]" in text  # the classifier's kernel
    assert found["arrays"]["rstg_final/time/lstm/input_kernel"] == [16, 64]
    assert found["modules"]["rstg_final/time/lstm"]["parameters"] == 2 * 16 * 64 + 64
    assert "input_kernel" not in text  # lies deeper than 3
    status, deep, _ = run(monkeypatch, capsys, *flags, "--depth=4")
    assert "input_kernel" in deep and "[16, 64]" in deep


@pytest.mark.parametrize(("parts", "clips"), [(1, 8), (3, 3), (4, 2)])
def test_parts_of_a_batch_share_the_memory(parts, clips, monkeypatch, capsys):
    flags = ["--config=configs/sync_mnist.py:tiny", f"--config.train.accumulate={parts}"]
    found = json.loads(run(monkeypatch, capsys, *flags, "--json")[1])
    wanted = clips * found["modules"][""]["activation_bytes"] + found["fixed_bytes"]
    _, text, _ = run(monkeypatch, capsys, *flags)
    assert f"\n{summary.number(wanted, 'B')} of activations" in text
    assert (f"batches of 8 in {parts} parts" in text) == (parts > 1)


def test_modules_come_in_the_order_of_the_computation(monkeypatch, capsys):
    _, text, _ = run(monkeypatch, capsys, "--config=configs/sync_mnist.py:tiny", "--depth=1")
    first = [line.split()[0] for line in text.split("\n") if line[:1].isalpha()]
    assert first[2:5] == ["backbone", "rstg_final", "classifier"]


def test_mistakes_are_one_line(monkeypatch, capsys):
    flags = ["--config=configs/sync_mnist.py:tiny", "--config.model.rstg.dimm=16"]
    status, _, err = run(monkeypatch, capsys, *flags)
    assert (status, err) == (
        2,
        "error: no config key 'model.rstg.dimm'; the nearest is 'model.rstg.dim'\n",
    )


def test_data_that_cannot_tell_their_labels(monkeypatch, capsys):
    flags = ["--config=configs/sync_mnist.py:tiny", "--config.data=FolderConfig"]
    flags += ["--config.data.path=/nowhere", "--config.data.clip.frames=2", "--depth=1"]
    flags += ["--config.data.clip.crop=16", "--config.data.clip.resize=16"]
    status, _, err = run(monkeypatch, capsys, *flags)
    assert status == 2 and "/nowhere" in err
    status, text, _ = run(monkeypatch, capsys, *flags, "--classes=9")
    assert status == 0 and "clip [2, 16, 16, 3], 9 classes" in text
    assert re.search(r"^classifier +81 ", text, re.M)


@pytest.mark.parametrize(
    ("value", "text"), [(0, ""), (7, "7"), (1234, "1.23 k"), (23.4e9, "23.4 G"), (2e13, "20.0 T")]
)
def test_numbers(value, text):
    assert summary.number(value) == text


def test_names_that_are_no_modules_are_left_out():
    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.remat(nn.Dense)(3, name="inner")(x) + jax.vmap(lambda v: v @ np.eye(3))(x)

    module, x = Outer(), jax.ShapeDtypeStruct((2, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    counts = costs.macs(jax.make_jaxpr(module.apply)(variables, x).jaxpr)
    assert summary.by_module(counts, {(), ("inner",)}) == {("inner",): 18, (): 18}


def test_modules_called_inside_another_than_their_owner():
    known = {(), ("net",), ("net", "norm"), ("graph",), ("graph", "norm"), ("graph", "norm", "x")}
    stacks = {"All/net/graph/norm": 1, "All/net/norm": 2, "All/graph/norm/x/x.f": 4, "All/net": 8}
    assert summary.by_module(stacks, known) == {
        ("graph", "norm"): 1,
        ("net", "norm"): 2,
        ("graph", "norm", "x"): 4,
        ("net",): 8,
    }


def test_labels_of_a_batch():
    """One number a video, or one for each class where a video may have several labels."""
    cater = folder.get_config("cater_actions_present")
    assert summary.abstract_batch(cater, 14, 3)["label"].shape == (3, 14)
    assert summary.abstract_batch(sync_mnist.tiny(), 4, 3)["label"].shape == (3,)
