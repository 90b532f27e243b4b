"""The block as users meet it: plans, refusals, transforms, causality."""

import dataclasses
import functools
import inspect
import re
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rstg_jax.errors import UserError
from rstg_jax.rstg import RSTG, RSTGConfig, init_state, presets, stage_plan, to_map, to_vec
from rstg_jax.rstg.block import check_features, region_means
from rstg_jax.rstg.config import Cell

FEATURES = np.random.default_rng(0).normal(size=(2, 4, 6, 5, 7)).astype(np.float32)


def block(**choices):
    """The jitted block and its fresh variables."""
    plan = {} if "stages" in choices else {"iterations": 2}
    module = RSTG(presets.modern(**plan | {"dim": 8, "scales": (2, 1)} | choices))
    return jax.jit(module.apply), jax.jit(module.init)(jax.random.key(0), FEATURES)


def test_plans():
    assert stage_plan(2) == ("time", "space", "time", "space", "time")
    assert presets.official_stages(3) == stage_plan(3)
    # The released graph has no inner time stage after the third.
    assert presets.official_stages(5) == ("time", "space") * 3 + ("space", "space", "time")


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"dim": 8, "num_heads": 3}, "num_heads 3 does not divide dim 8"),
        ({"num_heads": 0}, "num_heads 0 does not divide"),
        ({"num_heads": 2, "attention": "additive"}, "several heads need attention 'dot'"),
        ({"stages": ("time", "spice")}, r"unknown stage \['spice'\] in stages"),
        ({"stages": ()}, "stages is empty"),
        ({"scales": ()}, "scales is empty"),
        ({"scales": (3, 0)}, "every grid size must be at least 1"),
        ({"dim": 0}, "dim 0 must be at least 1"),
        ({"update_layers": 3}, "update_layers 3 is not 1 or 2"),
        ({"attention": "simple"}, "attention 'simple' is not one of additive, dot"),
        ({"cell": "window", "dim": 6}, "dim 6 is no multiple of 4, the heads of cell 'window'"),
        ({"memory_span": 0}, "memory_span 0 must be at least 1"),
        ({"cell": "lru", "two_biases": True}, "two_biases needs cell 'lstm'"),
        ({"post_norm": "layer"}, "residual has its own norms"),
        ({"scales": 3}, r"scales 3 must be a tuple, such as \(3,\)"),
        ({"stages": "time"}, r"stages 'time' must be a tuple, such as \('time',\)"),
        ({"scales": (3, 2.0)}, r"scales \(3, 2\.0\): 2\.0 must be an int"),
        ({"dim": 8.0}, r"^dim 8\.0 must be an int"),
    ],
)
def test_impossible_configurations_are_refused_in_one_sentence(choices, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        RSTGConfig(**choices)
    assert "\n" not in str(error.value)
    assert "model." not in str(error.value)  # the config system adds the section


def test_no_iterations_are_refused():
    with pytest.raises(UserError, match="K = 0 iterations"):
        presets.modern(iterations=0)


@pytest.mark.parametrize(
    "preset", [presets.modern, functools.partial(presets.official, "sync_mnist")]
)
def test_two_plans_are_refused(preset):
    assert preset(stages=("time",)).stages == ("time",)
    assert preset().stages == preset(iterations=3).stages == stage_plan(3)
    with pytest.raises(UserError, match=r"iterations=3 and stages .* are two plans: give one"):
        preset(iterations=3, stages=("time",))


def test_stages_without_a_kind_have_no_weights_of_it():
    _, variables = block(stages=("space", "space"))
    assert "time" not in variables["params"]
    assert "last_time" not in variables["params"]
    apply, variables = block(stages=("time",))
    assert "space" not in variables["params"]
    assert apply(variables, FEATURES).attention is None


@pytest.mark.parametrize("cell", get_args(Cell))
def test_weights_are_float32_also_with_x64(cell):
    config = presets.modern(1, dim=8, scales=(1,), cell=cell, memory_span=2, lags=(1,))
    with jax.enable_x64(True):
        variables = jax.eval_shape(RSTG(config).init, jax.random.key(0), FEATURES)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_modern_preset_never_looks_at_later_frames():
    apply, variables = block()
    whole = apply(variables, FEATURES).nodes
    start = apply(variables, FEATURES[:, :2]).nodes
    np.testing.assert_allclose(whole[:, :2], start, atol=1e-6)


def test_clips_do_not_influence_each_other():
    apply, variables = block()
    together = apply(variables, FEATURES).nodes
    alone = apply(variables, FEATURES[1:]).nodes
    np.testing.assert_allclose(together[1:], alone, atol=1e-6)


def test_jit_vmap_and_remat_change_nothing():
    apply, variables = block()

    def vector(variables, features):
        return to_vec(apply(variables, features).nodes)

    plain = vector(variables, FEATURES)
    with jax.disable_jit():
        np.testing.assert_allclose(vector(variables, FEATURES), plain, atol=1e-5)
    np.testing.assert_allclose(jax.checkpoint(vector)(variables, FEATURES), plain, atol=1e-5)
    one_by_one = jax.vmap(vector, in_axes=(None, 0))(variables, FEATURES[:, None])[:, 0]
    np.testing.assert_allclose(one_by_one, plain, atol=1e-5)
    ensemble = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.1 * leaf]), variables)
    outs = jax.vmap(vector, in_axes=(0, None))(ensemble, FEATURES)
    np.testing.assert_allclose(outs[0], plain, atol=1e-5)
    scaled = vector(jax.tree.map(lambda leaf: 1.1 * leaf, variables), FEATURES)
    np.testing.assert_allclose(outs[1], scaled, atol=1e-5)


def test_forward_mode_agrees_with_reverse_mode():
    apply, variables = block()

    def scalar(features):
        return jnp.sin(to_vec(apply(variables, features).nodes)).sum()

    direction = np.random.default_rng(1).normal(size=FEATURES.shape).astype(np.float32)
    _, forward = jax.jvp(scalar, (FEATURES,), (direction,))
    reverse = (jax.grad(scalar)(FEATURES) * direction).sum()
    np.testing.assert_allclose(forward, reverse, rtol=1e-4)


def test_shard_map_over_clips_changes_nothing():
    apply, variables = block(iterations=1)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("clips",))
    clips = jax.sharding.PartitionSpec("clips")
    nowhere = jax.sharding.PartitionSpec()
    sharded = jax.shard_map(
        lambda v, x: apply(v, x).nodes, mesh=mesh, in_specs=(nowhere, clips), out_specs=clips
    )
    plain = apply(variables, FEATURES).nodes
    np.testing.assert_allclose(sharded(variables, FEATURES), plain, atol=1e-5)


@pytest.mark.parametrize("cell", get_args(Cell))
def test_gradients_within_shard_map_are_those_outside(cell):
    apply, variables = block(iterations=1, cell=cell)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("clips",))
    clips, nowhere = jax.sharding.PartitionSpec("clips"), jax.sharding.PartitionSpec()

    def loss(v, x):
        return jnp.sin(to_vec(apply(v, x).nodes)).sum()

    def sharded(v, x):
        total = jax.shard_map(
            lambda v, x: jax.lax.psum(loss(v, x), "clips"),
            mesh=mesh,
            in_specs=(nowhere, clips),
            out_specs=nowhere,
        )
        return total(v, x)

    found = jax.jit(jax.grad(sharded))(variables, FEATURES)
    expected = jax.jit(jax.grad(loss))(variables, FEATURES)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    assert largest > 0.1
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * largest),
        *(found, expected),
    )


def test_bfloat16_stays_near_float32():
    apply, variables = block()
    exact = apply(variables, FEATURES)
    low = apply(variables, jnp.asarray(FEATURES, jnp.bfloat16))
    assert low.nodes.dtype == jnp.bfloat16
    assert low.attention.dtype == jnp.float32
    error = np.square(np.asarray(low.nodes, np.float32) - exact.nodes).mean()
    assert np.sqrt(error / np.square(exact.nodes).mean()) < 0.03


def test_to_map_sums_the_resized_scales():
    nodes = np.random.default_rng(2).normal(size=(1, 2, 5, 3)).astype(np.float32)
    # 4x4 map, scales 2 and 1: every pixel is its quarter's node plus the whole frame's.
    fine = nodes[:, :, :4].reshape(1, 2, 2, 2, 3).repeat(2, axis=2).repeat(2, axis=3)
    expected = fine + nodes[:, :, 4][:, :, None, None]
    np.testing.assert_allclose(to_map(jnp.asarray(nodes), (2, 1), (4, 4)), expected, atol=1e-6)


def test_nodes_of_other_scales_are_no_map():
    with pytest.raises(
        UserError, match=r"nodes \[1, 1, 5, 2\] are not the 14 of scales \(3, 2, 1\)"
    ):
        to_map(jnp.ones((1, 1, 5, 2)), (3, 2, 1), (4, 4))


@pytest.mark.parametrize(
    ("features", "sentence"),
    [
        (FEATURES[0], r"features \[4, 6, 5, 7\] are not \[batch, frame, height, width, channel\]"),
        (FEATURES[:, :0], r"features \[2, 0, 6, 5, 7\] are empty"),
        (FEATURES[:0], r"features \[0, 4, 6, 5, 7\] are empty"),
        (FEATURES.astype(np.uint8), "features are uint8: convert them"),
    ],
)
def test_features_that_no_block_can_read_are_refused_in_one_sentence(features, sentence):
    with pytest.raises(UserError, match=sentence):  # of the block, annotations refuse most here
        check_features(RSTGConfig(), features)


@pytest.mark.parametrize(
    ("pool", "found"),
    [
        (lambda x, graph: jnp.swapaxes(region_means(x, graph), 1, 2), "[5, 2, 4, 7]"),
        (lambda x, graph: region_means(x, graph)[:, :1], "[5, 1, 2, 7]"),  # would be broadcast
        (lambda x, graph: x.mean((2, 3)), "[2, 4, 7]"),
    ],
    ids=["axes", "frames", "rank"],
)
def test_what_a_pool_returns_is_checked(pool, found):
    module = RSTG(presets.modern(iterations=1, dim=8, scales=(2, 1)), pool=pool)
    message = f"pool returned {found}: it must return [node, frame, batch, channel], here [5, 4, 2]"
    with pytest.raises(UserError, match=re.escape(message)):
        jax.eval_shape(module.init, jax.random.key(0), FEATURES)


def test_objects_are_regions_that_all_are_neighbours():
    """A block on objects, beside one on regions that hold one pixel each."""
    choices = {"iterations": 2, "dim": 8, "neighbours": "all", "positions": False}
    regions = RSTG(presets.modern(scales=(3,), **choices))
    objects = RSTG(presets.modern(scales=(), objects=9, **choices))
    pixels = np.random.default_rng(5).normal(size=(2, 4, 3, 3, 7)).astype(np.float32)
    vectors = pixels.reshape(2, 4, 9, 7)
    variables = jax.jit(regions.init)(jax.random.key(0), pixels)
    expected, found = regions.apply(variables, pixels), objects.apply(variables, vectors)
    np.testing.assert_allclose(found.nodes, expected.nodes, atol=1e-5)
    np.testing.assert_allclose(found.attention, expected.attention, atol=1e-6)
    state, parts = init_state(objects.config, 2), []
    for start in (0, 3):  # chunks of three frames and of one
        chunk = vectors[:, start : start + 3]
        part, state = objects.apply(variables, chunk, state, method="stream")
        parts.append(part.nodes)
    np.testing.assert_allclose(np.concatenate(parts, 1), expected.nodes, atol=1e-5)
    turned = objects.apply(variables, vectors[:, :, ::-1]).nodes
    np.testing.assert_allclose(turned, found.nodes[:, :, ::-1], atol=1e-5)


def test_messages_of_objects_depend_on_which_they_are():
    """Objects with the same features differ by their numbers alone, and only with positions."""
    vectors = np.ones((1, 2, 3, 7), np.float32)
    for positions in (False, True):
        config = presets.modern(
            iterations=1, dim=8, scales=(), objects=3, neighbours="all", positions=positions
        )
        nodes, _ = jax.jit(RSTG(config).init_with_output)(jax.random.key(0), vectors)[0]
        assert (np.abs(nodes[:, :, 0] - nodes[:, :, 1]).max() > 1e-2) == positions


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"objects": 3}, r"3 objects are the nodes: set scales to \(\) and neighbours to 'all'"),
        ({"objects": 3, "scales": ()}, "3 objects are the nodes: set scales"),
        ({"objects": -1}, "objects -1 is negative"),
        ({"scales": ()}, "scales is empty"),
    ],
)
def test_objects_take_the_place_of_regions(choices, sentence):
    with pytest.raises(UserError, match=sentence):
        RSTGConfig(**choices)


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ((1, 2, 6, 6, 7), r"are not \[batch, frame, object, channel\]"),
        ((1, 2, 4, 7), "are not of 3 objects in each frame"),
    ],
)
def test_features_of_other_objects_are_refused(shape, sentence):
    config = RSTGConfig(objects=3, scales=(), neighbours="all")
    with pytest.raises(UserError, match=sentence):
        check_features(config, np.ones(shape, np.float32))


def test_a_block_checks_its_features():
    apply, variables = block()
    with pytest.raises(UserError, match="are empty"):
        apply(variables, FEATURES[:, :0])


@pytest.mark.parametrize(
    ("choices", "batch"),
    [({}, 1), ({}, 3), ({"iterations": 3}, 2), ({"dim": 4}, 2), ({"cell": "gru"}, 2)],
)
def test_states_of_other_blocks_or_videos_are_refused(choices, batch):
    """A longer state was cut to what the block reads."""
    _, variables = block()
    config = presets.modern(**{"iterations": 2, "dim": 8, "scales": (2, 1)} | choices)
    state = init_state(config, batch)
    module = RSTG(presets.modern(iterations=2, dim=8, scales=(2, 1)))
    with pytest.raises(UserError, match=r"this block needs .* make it with init_state\(config, b"):
        module.apply(variables, FEATURES, state, method="stream")


def test_lists_stand_for_tuples():
    plan = ["time", "space", "time"]
    config = RSTGConfig(stages=plan, scales=[2, 1], remat=["space"], schedule="wavefront")
    same = RSTGConfig(stages=tuple(plan), scales=(2, 1), remat=("space",), schedule="wavefront")
    assert hash(RSTG(config)) == hash(RSTG(same)) and config == same


def test_a_misspelt_data_set_is_not_the_other_one():
    with pytest.raises(UserError, match="no data set 'sync_mnst'"):
        inspect.unwrap(presets.official)("sync_mnst")  # annotations are checked in tests only


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        presets.modern().dim = 3
