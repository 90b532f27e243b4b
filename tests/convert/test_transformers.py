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
from tests.models import test_videoprism as test_videoprism_numbers
from tests.models import test_vit

MISTAKE = 1e-3


def ours(name, state, video):
    return test_vit.run(
        test_vit.arch(name), convert_torch.convert(state, test_vit.arch(name)), video
    )


@pytest.mark.parametrize("name", test_vit.SMALL)
def test_stored_numbers(name):
    golden = test_vit.golden(name)
    features, logits = peers.run(name, peers.load(name, zoo.weights(golden)), zoo.video(golden))
    assert zoo.deviation(features, golden["out/features"]) < 1e-5
    assert zoo.deviation(logits, golden["out/logits"]) < 1e-5


@pytest.mark.parametrize("name", test_vit.SMALL)
def test_converted_file(name, tmp_path):
    """Other weights than the stored ones, through a file."""
    drawn = peers.drawn(name, seed=3000)
    model = peers.load(name, zoo.weights(drawn))
    model.save_pretrained(tmp_path)
    state, video = torch_files.read(tmp_path / "model.safetensors"), zoo.video(drawn)
    found, wanted = ours(name, state, video), peers.run(name, model, video)
    deviations = [zoo.deviation(a, b) for a, b in zip(found, wanted, strict=True)]
    print(f"{name}: features {deviations[0]:.2g}, logits {deviations[1]:.2g}")
    assert max(deviations) < 1e-5
    for other in (video[:, ::-1], video[:, :, ::-1], video.swapaxes(2, 3)):
        if other.shape == video.shape:  # the first is not square
            assert zoo.deviation(peers.run(name, model, other)[1], found[1]) > MISTAKE


def test_a_query_of_the_probe_and_its_position_matter():
    """Mistakes in the peer, which the comparison must notice."""
    drawn = peers.drawn("vjepa2", seed=4000)
    weights, video = zoo.weights(drawn), zoo.video(drawn)
    found = ours("vjepa2", weights, video)[1]
    for key in ("pooler.query_tokens", "vjepa2.encoder.layer.0.attention.key.bias"):
        changed = {**weights, key: np.zeros_like(weights[key])}
        wrong = peers.run("vjepa2", peers.load("vjepa2", changed), video)[1]
        # Softmax takes no notice of what all keys have in common, but these are turned first.
        assert zoo.deviation(wrong, found) > MISTAKE, key


WHOLE = {
    "videomae_b": ("VideoMAEForVideoClassification", "VideoMAEConfig"),
    "vjepa2_l": ("VJEPA2ForVideoClassification", "VJEPA2Config"),
    "videoprism_b_encoder": ("VideoPrismVisionModel", "VideoPrismVisionConfig"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_names_and_sizes_of_whole_networks(name):
    """Those of the package's defaults; the predictor of the training task is left out."""
    model, config = (getattr(peers.transformers, part) for part in WHOLE[name])
    with peers.torch.device("meta"):
        built = model(config(num_labels=174))
    shapes = {k: tuple(v.shape) for k, v in built.state_dict().items()}
    state = {k: np.broadcast_to(np.float32(0), shape) for k, shape in shapes.items()}
    params = convert_torch.convert(state, convert_torch.ARCHS[name])["params"]
    if name.endswith("encoder"):
        params.pop("classifier")
    theirs = sum(math.prod(shape) for k, shape in shapes.items() if ".predictor." not in k)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == theirs


def test_videoprism():
    """Its stored numbers, and tables of positions resampled for a clip of another size."""
    golden = test_videoprism_numbers.golden()
    weights = zoo.weights(golden)
    model = peers.load("videoprism", weights)
    features, _ = peers.run("videoprism", model, zoo.video(golden))
    assert zoo.deviation(features, golden["out/features"]) < 1e-5
    video = np.random.default_rng(0).integers(0, 256, (1, 6, 72, 36, 3)).astype(np.uint8)
    wanted, _ = peers.run("videoprism", model, video, interpolate_pos_encoding=True)
    assert zoo.deviation(test_videoprism_numbers.features(weights, video), wanted) < 1e-5
