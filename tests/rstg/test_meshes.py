"""The block on several devices, on Auto and on Explicit axes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rstg_jax.rstg import RSTG, init_state, presets

FEATURES = np.random.default_rng(0).normal(size=(4, 5, 4, 5, 7)).astype(np.float32)
SCHEDULES = ["stage", "wavefront"]
RUNS = [(schedule, "lstm") for schedule in SCHEDULES]
RUNS += [("stage", cell) for cell in ("lru", "rg_lru", "min_gru", "window", "lags")]


def make_block(schedule, cell):
    plan = {"iterations": 2} if cell == "lstm" else {"stages": ("time",)}  # space stages: once
    if cell == "lags":
        plan |= {"differences": True, "lags": (1, 3)}
        cell = "lstm"
    return RSTG(presets.modern(**plan, dim=8, scales=(2, 1), schedule=schedule, cell=cell))


def make_mesh(axis_type):
    return jax.make_mesh((4,), ("clips",), axis_types=(axis_type,), devices=jax.devices()[:4])


def place(mesh, tree, *spec):
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*spec)))


def gradients(block):
    """A function of weights and features: an objective with its gradients, and the nodes."""

    def objective(params, features):
        out = block.apply({"params": params}, features)
        attention = () if out.attention is None else out.attention
        return jnp.sin(out.nodes).sum() + jnp.square(jnp.asarray(attention)).sum(), out.nodes

    return jax.jit(jax.value_and_grad(objective, (0, 1), has_aux=True))


def assert_same(actual, expected):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("schedule", "cell"), RUNS)
def test_explicit_axes_change_no_number(schedule, cell):
    """Values, gradients and streaming; types say where the clips are all along."""
    block = make_block(schedule, cell)
    params = jax.jit(block.init)(jax.random.key(0), FEATURES)["params"]
    run = gradients(block)
    expected = run(params, FEATURES)
    (_, nodes), _ = expected
    assert np.abs(nodes).std() > 0.05
    mesh = make_mesh(AxisType.Explicit)
    with jax.set_mesh(mesh):
        weights, features = place(mesh, params), place(mesh, FEATURES, "clips")
        actual = run(weights, features)
        assert_same(actual, expected)
        assert jax.typeof(actual[0][1]).sharding.spec == PartitionSpec("clips", None, None, None)
        # The features do arrive: other ones give other nodes.
        assert np.abs(run(weights, 2 * features)[0][1] - nodes).max() > 0.01

        step = jax.jit(lambda x, state: block.apply({"params": weights}, x, state, method="stream"))
        state = place(mesh, init_state(block.config, 4), None, "clips", None)
        parts = []
        for frame in range(5):
            out, state = step(features[:, frame : frame + 1], state)
            parts.append(out.nodes)
        assert step._cache_size() == 1
        assert_same(jnp.concatenate(parts, axis=1), nodes)


@pytest.mark.parametrize(("schedule", "cell"), RUNS[:3])
def test_only_gradients_of_weights_travel(schedule, cell):
    block, mesh = make_block(schedule, cell), make_mesh(AxisType.Auto)
    params = jax.eval_shape(block.init, jax.random.key(0), FEATURES)["params"]
    whole, clips = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in ((), ("clips",)))
    step = jax.jit(gradients(block), in_shardings=(whole, clips))
    text = step.lower(params, FEATURES).compile().as_text()
    collectives = set(re.findall(r" (all-\w[\w-]*|collective-\w+|reduce-scatter)\(", text))
    assert collectives == {"all-reduce"}
