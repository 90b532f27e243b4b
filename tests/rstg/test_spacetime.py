"""One graph over all frames, against a plain loop over nodes of all frames and their edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rstg_jax.errors import UserError
from rstg_jax.rstg import RSTG, RSTGConfig, presets
from rstg_jax.rstg.region_graph import RegionGraph
from rstg_jax.rstg.stages import SpaceStage


def looped(weights: dict, nodes: np.ndarray, graph: RegionGraph, kind: str, num_heads: int):
    """Send, gather, update of `[n t b d]`, one destination and one source at a time, float64."""
    count, frames, clips, dim = nodes.shape
    out = np.zeros_like(nodes)

    def dense(where, x):
        return x @ where["kernel"] + where["bias"]

    def relu(x):
        return np.maximum(x, 0)

    for i, t, b in np.ndindex(count, frames, clips):
        sources = [(j, t) for j in range(count) if graph.adjacency[i, j]]
        sources += [(i, s) for s in (t - 1, t + 1) if 0 <= s < frames]
        ends = np.array([nodes[j, s, b] for j, s in sources])
        me, maps = nodes[i, t, b], graph.position_maps
        messages = []
        for (j, _), end in zip(sources, ends, strict=True):
            joined = np.concatenate([end, maps[j], me, maps[i]])
            hidden = relu(dense(weights["send"]["first"], joined))
            messages.append(relu(dense(weights["send"]["second"], hidden)))
        messages = np.array(messages)
        query = dense(weights["gather"]["destination"], me).reshape(num_heads, -1)
        keys = dense(weights["gather"]["source"], ends).reshape(len(sources), num_heads, -1)
        if kind == "dot":
            logits = np.einsum("hk,shk->sh", query, keys) / np.sqrt(keys.shape[-1])
        else:
            logits = (query + keys)[..., 0]
            logits = np.where(logits > 0, logits, 0.2 * logits)
        share = np.exp(logits - logits.max(0))
        share /= share.sum(0)
        if num_heads == 1:
            gathered = share[:, 0] @ messages
        else:
            projected = dense(weights["gather"]["project"], messages)
            parts = np.split(projected, num_heads, axis=1)
            gathered = np.concatenate([share[:, h] @ part for h, part in enumerate(parts)])
        gathered = relu(gathered + weights["gather_bias"])
        hidden = relu(dense(weights["update"]["first"], np.concatenate([me, gathered])))
        out[i, t, b] = relu(dense(weights["update"]["second"], hidden))
    return out


@pytest.mark.parametrize(("kind", "num_heads"), [("additive", 1), ("dot", 1), ("dot", 3)])
@pytest.mark.parametrize("frames", [1, 4])
def test_a_round_is_the_loop(kind, num_heads, frames):
    config = RSTGConfig(dim=6, scales=(2, 1), attention=kind, num_heads=num_heads, residual=False)
    graph = RegionGraph(config.scales)
    rng = np.random.default_rng(frames)
    nodes = rng.normal(size=(graph.num_nodes, frames, 2, 6))
    step = SpaceStage(config, graph, across_frames=True)
    shapes = jax.eval_shape(
        lambda x: step.init(jax.random.key(0), x, train=False), jnp.float32(nodes)
    )
    weights = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape) * 0.5, shapes["params"])
    variables = {"params": jax.tree.map(jnp.float32, weights)}
    run = jax.jit(lambda v, x: step.apply(v, x, train=False))
    got, attention = run(variables, jnp.float32(nodes))
    expected = looped(weights, nodes, graph, kind, num_heads)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(got, expected, atol=2e-5 * np.abs(expected).max())
    assert attention.shape == (graph.num_nodes, graph.num_nodes, frames, 2, num_heads)


def test_news_travels_one_frame_a_round():
    config = presets.modern(dim=8, scales=(2, 1), stages=("spacetime",) * 2)
    features = jax.random.normal(jax.random.key(0), (1, 7, 4, 4, 8))
    block = RSTG(config)
    variables, run = jax.jit(block.init)(jax.random.key(1), features), jax.jit(block.apply)
    before = run(variables, features).nodes
    after = run(variables, features.at[:, 3].set(features[:, 0])).nodes
    moved = np.abs(after - before).max((0, 2, 3)) > 1e-6
    assert moved.tolist() == [False, True, True, True, True, True, False]


def test_what_it_cannot_be_combined_with_is_said():
    with pytest.raises(UserError, match="'spacetime' needs masking 'exclude'"):
        presets.official("sync_mnist", stages=("spacetime",))
