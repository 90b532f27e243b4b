"""The temporal transformer against PyTorch's encoder layers, and what a frame may look at."""

import dataclasses

import jax
import numpy as np
import pytest

from rstg_jax.errors import UserError
from rstg_jax.layers import transformer
from rstg_jax.models import heads
from rstg_jax.rstg.region_graph import RegionGraph

HEAD = heads.TransformerHead(scales=(2, 1), dim=12, layers=3, num_heads=3)
FEATURES = np.random.default_rng(0).normal(size=(2, 9, 4, 6, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    """Random weights, also of biases and norms."""
    shapes = jax.eval_shape(HEAD.build("head").init, jax.random.key(0), FEATURES)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: 0.3 * rng.normal(size=x.shape).astype(np.float32), shapes)


def run(params, head=HEAD, features=FEATURES):
    return np.asarray(jax.jit(head.build("head").apply)({"params": params}, features))


def peer(params, causal=True, **options):
    """The same by PyTorch; `options` of its encoder layer."""
    torch = pytest.importorskip("torch", reason="pip install -r requirements-torch.txt")
    options = {"norm_first": True, "activation": "gelu"} | options
    layer = torch.nn.TransformerEncoderLayer(12, 3, 48, 0.0, batch_first=True, **options)
    # Its fast path has an operation of its own, and no pre-norm.
    encoder = torch.nn.TransformerEncoder(layer, 3, torch.nn.LayerNorm(12), False)

    def linear(weights):
        return np.asarray(weights["kernel"]).T, weights["bias"]

    state = {}

    def put(name, weights):
        state[f"{name}.weight"], state[f"{name}.bias"] = weights

    def norm(weights):
        return weights["scale"], weights["bias"]

    for number in range(3):
        ours, theirs = params[f"layer{number}"], f"layers.{number}"
        attention = ours["attention"]
        qkv = [linear(attention[name]) for name in ("query", "key", "value")]
        weight, bias = (np.concatenate(part) for part in zip(*qkv, strict=True))
        state[f"{theirs}.self_attn.in_proj_weight"] = weight
        state[f"{theirs}.self_attn.in_proj_bias"] = bias
        put(f"{theirs}.self_attn.out_proj", linear(attention["out"]))
        put(f"{theirs}.linear1", linear(ours["mlp"]["fc1"]))
        put(f"{theirs}.linear2", linear(ours["mlp"]["fc2"]))
        put(f"{theirs}.norm1", norm(ours["norm1"]))
        put(f"{theirs}.norm2", norm(ours["norm2"]))
    put("norm", norm(params["norm"]))
    encoder.load_state_dict({name: torch.tensor(array) for name, array in state.items()})

    pool = RegionGraph((2, 1), (4, 6)).pool
    tokens = np.einsum("nhw,bthwc->btnc", pool, FEATURES).reshape(2, 9, -1)
    tokens = tokens @ params["project_in"]["kernel"] + params["project_in"]["bias"]
    # Positions by a plain loop.
    for t in range(9):
        for k in range(6):
            tokens[..., t, 2 * k] += np.sin(t / 10_000 ** (k / 6))
            tokens[..., t, 2 * k + 1] += np.cos(t / 10_000 ** (k / 6))
    mask = torch.triu(torch.ones(9, 9, dtype=torch.bool), 1) if causal else None
    with torch.no_grad():
        return encoder.eval()(torch.tensor(tokens, dtype=torch.float32), mask=mask).numpy()


@pytest.mark.parametrize("causal", [True, False])
def test_layers_are_those_of_pytorch(params, causal):
    ours = run(params, dataclasses.replace(HEAD, causal=causal))
    assert ours.shape == (2, 9, 12) and ours.dtype == np.float32

    def difference(theirs):
        return np.abs(theirs - ours).max() / np.abs(ours).max()

    assert difference(peer(params, causal)) < 1e-5
    # Negative controls.
    assert difference(peer(params, not causal)) > 1e-2
    assert difference(peer(params, causal, norm_first=False)) > 1e-2
    assert difference(peer(params, causal, activation="relu")) > 1e-2


@pytest.mark.parametrize("causal", [True, False])
def test_a_causal_frame_does_not_see_later_ones(params, causal):
    later = FEATURES.copy()
    later[:, 6:] += 1
    head = dataclasses.replace(HEAD, causal=causal)
    change = np.abs(run(params, head, later) - run(params, head))
    assert (change[:, :6].max() < 1e-6) == causal
    assert change[:, 6].max() > 1e-2


def test_capped_attention_is_not_causal():
    tokens = np.zeros((1, 3, 4), np.float32)
    with pytest.raises(UserError, match="attention with logit_cap cannot be causal"):
        transformer.Attention(2, logit_cap=50.0, causal=True).init(
            jax.random.key(0), tokens, tokens
        )


def test_clips_of_any_length_have_positions_of_their_own(params):
    longer = np.tile(FEATURES[:, :1], (1, 1024, 1, 1, 1))  # the same frame all the time
    assert run(params, HEAD, longer[:, :300]).shape == (2, 300, 12)
    positions = transformer.sine_table(1024, 64)
    distance = np.linalg.norm(positions[:, None] - positions, axis=-1)
    assert distance[~np.eye(1024, dtype=bool)].min() > 0.5


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"layers": 0}, "dim, layers and num_heads of at least 1"),
        ({"dim": 10}, "dim=10 must be even, a multiple of num_heads"),
        ({"dim": 9}, "dim=9 must be even"),
    ],
)
def test_impossible_heads_are_refused(fields, sentence):
    with pytest.raises(UserError, match=sentence):
        dataclasses.replace(HEAD, **fields)
