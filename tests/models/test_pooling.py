"""Heads that average nodes, against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rstg_jax.models.heads import NodePooling

NODES = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32)  # [b t n d]


def pooled(node_sum, kernel=None):
    module = NodePooling(node_sum).build(name="head")
    variables = module.init(jax.random.key(0), jnp.asarray(NODES))
    if kernel is not None:
        variables = {"params": {"score": {"kernel": jnp.asarray(kernel)[:, None]}}}
    return np.asarray(module.apply(variables, jnp.asarray(NODES)))


def test_attention_weighs_every_node_by_its_score():
    kernel = np.array([0.5, -1.0, 2.0, 0.25], np.float32)
    expected = np.zeros((2, 3, 4))
    for clip in range(2):
        for frame in range(3):
            scores = [float(node.astype(float) @ kernel) for node in NODES[clip, frame]]
            total = sum(np.exp(score) for score in scores)
            for node, score in zip(NODES[clip, frame], scores, strict=True):
                expected[clip, frame] += np.exp(score) / total * node
    found = pooled("attention", kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(found - pooled("mean")).max() > 0.1


@pytest.mark.parametrize(
    ("node_sum", "factor"), [("sum", 1.0), ("mean", 1 / 5), ("attention", 1 / 5)]
)
def test_all_nodes_count_alike_at_first(node_sum, factor):
    expected = factor * NODES.astype(float).sum(axis=2)
    np.testing.assert_allclose(pooled(node_sum), expected, rtol=1e-5, atol=1e-6)
