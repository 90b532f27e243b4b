"""Video transformers of the package transformers against ours with their weights converted.

Needs requirements-transformers.txt; `tests/models/test_vit.py` compares with stored numbers.
"""

import math

import jax
import numpy as np
import pytest

from rstg_jax.convert import torch as convert_torch
from rstg_jax.convert import torch_files
from tests import transformers_peers as peers
from tests import zoo
from tests.models import test_vit

MISTAKE = 1e-3


def ours(name, state, video):
    return test_vit.run(
        test_vit.arch(name), convert_torch.convert(state, test_vit.arch(name)), video
    )


@pytest.mark.parametrize("name", test_vit.SMALL)
def test_stored_numbers(name):
    golden = test_vit.golden(name)
    features, logits = peers.run(peers.load(name, zoo.weights(golden)), zoo.video(golden))
    assert zoo.deviation(features, golden["out/features"]) < 1e-5
    assert zoo.deviation(logits, golden["out/logits"]) < 1e-5


@pytest.mark.parametrize("name", test_vit.SMALL)
def test_converted_file(name, tmp_path):
    """Other weights than the stored ones, through a file."""
    drawn = peers.drawn(name, seed=3000)
    model = peers.load(name, zoo.weights(drawn))
    model.save_pretrained(tmp_path)
    state, video = torch_files.read(tmp_path / "model.safetensors"), zoo.video(drawn)
    found, wanted = ours(name, state, video), peers.run(model, video)
    deviations = [zoo.deviation(a, b) for a, b in zip(found, wanted, strict=True)]
    print(f"{name}: features {deviations[0]:.2g}, logits {deviations[1]:.2g}")
    assert max(deviations) < 1e-5
    for other in (video[:, ::-1], video[:, :, ::-1], video.swapaxes(2, 3)):
        if other.shape == video.shape:  # the first is not square
            assert zoo.deviation(peers.run(model, other)[1], found[1]) > MISTAKE


def test_a_query_of_the_probe_and_its_position_matter():
    """Mistakes in the peer, which the comparison must notice."""
    drawn = peers.drawn("vjepa2", seed=4000)
    weights, video = zoo.weights(drawn), zoo.video(drawn)
    found = ours("vjepa2", weights, video)[1]
    for key in ("pooler.query_tokens", "vjepa2.encoder.layer.0.attention.key.bias"):
        changed = {**weights, key: np.zeros_like(weights[key])}
        wrong = peers.run(peers.load("vjepa2", changed), video)[1]
        # Softmax takes no notice of what all keys have in common, but these are turned first.
        assert zoo.deviation(wrong, found) > MISTAKE, key


@pytest.mark.parametrize("name", ["videomae_b", "vjepa2_l"])
def test_names_and_sizes_of_whole_networks(name):
    """Those of the package's defaults; the predictor of the training task is left out."""
    package = peers.transformers
    with peers.torch.device("meta"):
        if name == "videomae_b":
            model = package.VideoMAEForVideoClassification(package.VideoMAEConfig(num_labels=174))
        else:
            model = package.VJEPA2ForVideoClassification(package.VJEPA2Config(num_labels=174))
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    state = {k: np.broadcast_to(np.float32(0), shape) for k, shape in shapes.items()}
    variables = convert_torch.convert(state, convert_torch.ARCHS[name])
    theirs = sum(math.prod(shape) for k, shape in shapes.items() if ".predictor." not in k)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == theirs
