"""Space stages of both presets against a loop over nodes and edges in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rstg_jax.rstg import presets
from rstg_jax.rstg.message_passing import attention_weights
from rstg_jax.rstg.region_graph import RegionGraph
from rstg_jax.rstg.stages import SpaceStage

GRAPH = RegionGraph((2, 1), (4, 4))
NODES = np.random.default_rng(0).normal(size=(5, 3, 2, 6)).astype(np.float32)  # [n t b d]


def relu(x):
    return np.maximum(x, 0)


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


def looped_stage(config, params, nodes, graph):
    """Paper equations, one destination and one source at a time, `[n t b d]`."""
    nodes = nodes.astype(np.float64)
    adjacency, n = GRAPH.adjacency, graph.num_nodes
    if config.neighbours == "all":
        adjacency = np.array([[i != j for j in range(n)] for i in range(n)])
    maps = graph.position_maps if config.positions else np.zeros((n, 0))
    send, gather, update = params["send"], params["gather"], params["update"]

    def dense(layer, x):
        return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)

    v = nodes
    if config.residual:
        mean, variance = v.mean(-1, keepdims=True), v.var(-1, keepdims=True)
        v = (v - mean) / np.sqrt(variance + 1e-6)
    result = np.zeros_like(nodes)
    for t, b in np.ndindex(*nodes.shape[1:3]):
        for i in range(n):
            logits, messages = [], []
            for j in range(n):
                if config.masking == "exclude" and not adjacency[i, j]:
                    continue
                ends = np.concatenate([v[j, t, b], maps[j], v[i, t, b], maps[i]])
                messages.append(relu(dense(send["second"], relu(dense(send["first"], ends)))))
                q, k = dense(gather["destination"], v[i, t, b]), dense(gather["source"], v[j, t, b])
                a = float(adjacency[i, j])
                if config.attention == "additive":
                    multiplied = leaky(a * q + a * k) + a
                    logits.append(leaky(q + k) if config.masking == "exclude" else multiplied)
                else:
                    q, k = q.reshape(config.num_heads, -1), k.reshape(config.num_heads, -1)
                    dot = (q * k).sum(-1)
                    scaled = dot / np.sqrt(q.shape[-1])
                    logits.append(scaled if config.masking == "exclude" else a * dot)
            weights = np.exp(logits) / np.exp(logits).sum(0)  # [j heads]
            gathered = np.einsum("jh,jd->hd", weights, messages)
            if config.num_heads > 1:
                kernel = np.asarray(gather["project"]["kernel"]).reshape(6, config.num_heads, -1)
                gathered = np.einsum("hd,dhk->hk", gathered, kernel).reshape(-1)
                gathered = gathered + gather["project"]["bias"]
            gathered = relu(gathered.reshape(-1) + params["gather_bias"])
            x = relu(dense(update["first"], np.concatenate([v[i, t, b], gathered])))
            x = dense(update["second"], x)
            result[i, t, b] = nodes[i, t, b] + x if config.residual else relu(x)
    return result


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize(("attention", "heads"), [("additive", 1), ("dot", 1), ("dot", 3)])
@pytest.mark.parametrize("preset", ["modern", "modern, all neighbours", "official"])
def test_stage_is_the_loop(preset, attention, heads, positions):
    choices = {"dim": 6, "scales": (2, 1), "attention": attention, "num_heads": heads}
    choices |= {"positions": positions}
    if preset.startswith("modern"):
        neighbours = "all" if "all" in preset else "touching"
        config = presets.modern(neighbours=neighbours, **choices)
    else:
        config = presets.official(
            "something_something", **choices, post_norm="none", update_per_scale=False
        )
    step = SpaceStage(config, config.graph((4, 4)))
    variables = jax.jit(lambda x: step.init(jax.random.key(1), x, train=False))(NODES)
    leaves, tree = jax.tree.flatten(variables)
    rng = np.random.default_rng(2)  # biases too: a zero bias would test nothing
    leaves = [leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    variables = jax.tree.unflatten(tree, leaves)
    if config.residual:  # the loop has no gain in its norm
        norm = variables["params"]["norm"]
        norm["scale"], norm["bias"] = jnp.ones(6), jnp.zeros(6)
    got, attention = jax.jit(lambda v, x: step.apply(v, x, train=False))(variables, NODES)
    expected = looped_stage(config, variables["params"], NODES, GRAPH)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(attention.sum(axis=1), 1, rtol=1e-5)  # over sources
    far = ~GRAPH.adjacency & ~np.eye(5, dtype=bool)
    assert far.sum() == 4  # the two diagonals of the finest scale
    assert (np.asarray(attention)[far] > 0).all() == (preset != "modern")


def test_permuting_nodes_permutes_the_stage():
    permutation = np.array([3, 0, 4, 1, 2])

    class Shuffled(RegionGraph):
        """The same graph with its nodes in another order."""

        adjacency = GRAPH.adjacency[permutation][:, permutation]
        position_maps = GRAPH.position_maps[permutation]

    config = presets.modern(dim=6, scales=(2, 1))
    variables = SpaceStage(config, GRAPH).init(jax.random.key(0), NODES, train=False)
    plain, _ = SpaceStage(config, GRAPH).apply(variables, NODES, train=False)
    shuffled, _ = SpaceStage(config, Shuffled((2, 1), (4, 4))).apply(
        variables, NODES[permutation], train=False
    )
    np.testing.assert_allclose(shuffled, plain[permutation], atol=1e-6)
    assert np.abs(plain - plain[permutation]).max() > 0.1


def test_a_node_without_neighbours_receives_nothing():
    scores = jnp.ones((3, 1, 2, 1))
    weights = attention_weights(scores[0], scores, jnp.zeros((3, 1)), "additive", "exclude")
    assert weights.shape == scores.shape
    assert (np.asarray(weights) == 0).all()
    config = presets.modern(dim=6, scales=(1,))
    step = SpaceStage(config, RegionGraph((1,), (4, 4)))
    variables = step.init(jax.random.key(0), NODES[:1], train=False)
    out, _ = step.apply(variables, NODES[:1], train=False)
    assert np.isfinite(out).all()
