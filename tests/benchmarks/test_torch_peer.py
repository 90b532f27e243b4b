"""Block and whole SyncMNIST models against the PyTorch peer of the benchmarks, weights copied."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import sync_mnist
from rstg_jax.models import classifier
from rstg_jax.models.backbones.simple_cnn import SimpleCNNConfig
from rstg_jax.models.config import ModelConfig
from rstg_jax.models.heads import NodePooling
from rstg_jax.rstg import presets
from rstg_jax.rstg.block import RSTG

torch = pytest.importorskip("torch", reason="pip install -r requirements-torch.txt")

from benchmarks.peers import torch_rstg  # noqa: E402

CONFIGS = {
    "official": presets.official("sync_mnist", 2, dim=24),
    "modern dot": presets.modern(2, dim=24),
    "modern additive": presets.modern(
        1, dim=24, attention="additive", positions=False, neighbours="all"
    ),
}


def drawn(module, *inputs) -> dict:
    """Random variables for a module: with its own ones most biases and gains would be trivial."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(7)

    def draw(path, leaf):
        name, noise = path[-1].key, rng.standard_normal(leaf.shape, np.float32)
        if name.endswith("kernel"):
            return noise * np.prod(leaf.shape[:-1]) ** -0.5
        return 0.2 * noise + (name in ("scale", "var"))

    return jax.tree_util.tree_map_with_path(draw, shapes)


def relative(actual, expected) -> float:
    """Largest deviation relative to the largest expected value."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    return np.abs(actual - expected).max() / np.abs(expected).max()


def tensor(array) -> torch.Tensor:
    return torch.tensor(np.array(array))


@pytest.mark.parametrize(
    ("name", "channels", "train"),
    [
        ("official", 10, True),
        ("modern dot", 10, True),
        ("modern additive", 24, False),
    ],
)
def test_block(name, channels, train):
    config = CONFIGS[name]
    block = RSTG(config)
    features, weights = (
        jax.random.normal(jax.random.key(k), shape)
        for k, shape in ((1, (2, 5, 6, 6, channels)), (2, (2, 5, 14, 24)))
    )
    variables = drawn(block, features)
    stats = variables.get("batch_stats", {})

    def objective(params, features):
        given = {"params": params, "batch_stats": stats}
        out, moved = block.apply(given, features, train=train, mutable=["batch_stats"])
        return (out.nodes * weights).sum(), (out.nodes, moved.get("batch_stats", {}))

    grad = jax.jit(jax.grad(objective, argnums=(0, 1), has_aux=True))
    (param_grads, feature_grad), (nodes, moved) = grad(variables["params"], features)

    peer = torch_rstg.RSTG(config, (6, 6), channels).train(train)
    torch_rstg.copy_block(peer, variables)
    there = tensor(features).requires_grad_()
    peer_nodes = peer(there)
    (peer_nodes * tensor(weights)).sum().backward()

    assert relative(nodes, peer_nodes.detach().numpy()) < 1e-5
    assert relative(feature_grad, there.grad.numpy()) < 1e-4
    expected = torch_rstg.block_state(param_grads, moved, config)
    ours = {name: value for name, value in expected.items() if "running" not in name}
    if not config.two_biases:  # rstg_jax has one bias: as much of it as PyTorch of either
        ours |= {name: ours[name.replace("hh", "ih")] for name in ours if "bias_hh" in name}
    theirs = {name: weight.grad.numpy() for name, weight in peer.named_parameters()}
    assert ours.keys() == theirs.keys()
    for path, value in ours.items():
        # A softmax does not change when all its logits do: there the gradient is rounding noise.
        if np.abs(theirs[path]).max() > 1e-4:
            assert relative(value, theirs[path]) < 1e-4, path
    assert sum(np.abs(value).max() > 1e-4 for value in theirs.values()) >= len(theirs) - 2
    for path, value in expected.items():
        if train and "running" in path:
            assert relative(value, peer.state_dict()[path].numpy()) < 1e-5, path


MODELS = {
    "official": ModelConfig(
        backbone=SimpleCNNConfig(features=(16, 16, 24), input_scale=100.0),
        rstg=presets.official("sync_mnist", dim=24),
    ),
    "demo": dataclasses.replace(
        sync_mnist.demo().model, region_classes=0, early_heads=False, head=NodePooling("mean")
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_model(name):
    config, clip = MODELS[name], (4, 32, 32, 1) if name == "demo" else (4, 46, 46, 1)
    module = classifier.build(config, 7)
    video = jax.random.randint(jax.random.key(1), (2, *clip), 0, 256).astype(jnp.uint8)
    variables = drawn(module, video)
    logits, _ = jax.jit(module.apply)(variables, video)
    peer = torch_rstg.Classifier(config, clip, 7).eval()
    torch_rstg.copy_classifier(peer, variables)
    theirs = peer(tensor(video)).detach().numpy()
    assert np.abs(theirs).max() > 0.1
    assert relative(logits, theirs) < 1e-5


def test_weights_that_do_not_fit_are_named():
    config = CONFIGS["modern dot"]
    variables = drawn(RSTG(config), jnp.ones((1, 2, 6, 6, 10)))
    with pytest.raises(ValueError, match=r"left over or misshapen: project_in\.weight"):
        torch_rstg.copy_block(torch_rstg.RSTG(config, (6, 6), 24), variables)
    with pytest.raises(ValueError, match="num_heads=1"):
        torch_rstg.RSTG(presets.modern(dim=24, num_heads=2), (6, 6), 24)
