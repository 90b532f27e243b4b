"""Networks that others wrote in PyTorch, to compare with; tests that import this need PyTorch."""

import dataclasses
import functools
import warnings

import jax
import numpy as np
import pytest

from rstg_jax.convert import torch as convert_torch
from rstg_jax.convert.torch_names import ARCHS
from rstg_jax.models import classifier

REASON = "pip install -r requirements-torch.txt"
torch = pytest.importorskip("torch", reason=REASON)
nn = torch.nn
CLASSES = 7
MISTAKE = 1e-2  # by which the logits of a network with a mistake deviate at least, see `deviation`


@functools.cache
def torchvision():
    """torchvision; PyPI's wheel beside a CPU build of PyTorch lacks operators that nobody uses."""
    try:
        return pytest.importorskip("torchvision", reason=REASON)
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return pytest.importorskip("torchvision", reason=REASON)


@functools.cache
def pytorchvideo():
    """PyTorchVideo's networks."""
    torchvision()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit, in a dependency
        pytest.importorskip("pytorchvideo", reason=REASON)
        from pytorchvideo import models
        from pytorchvideo.models import hub, x3d  # noqa: F401  attributes of it then
    return models


def randomise(model, seed=0):
    """All of batch norm too; evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            with torch.no_grad():
                for tensor in (module.weight, module.running_var):
                    tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
                for tensor in (module.bias, module.running_mean):
                    tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


def he_normal(model):
    """Convolutions that keep the size of a signal; with smaller ones wrong padding passes."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight)
    return model


def random_transformer(model, tables=("rel_pos", "cls_token", "class_token")):
    """Weights that keep the size of a signal, gains and biases too, and tables that matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            if any(table in name for table in tables):
                weight.copy_(drawn)
            elif weight.ndim > 1:
                weight.copy_(drawn * (2.0 / weight[0].numel()) ** 0.5)
            else:
                weight.copy_(0.3 * drawn + (name.endswith("weight") and 1.0))
    return model.eval()


def logits_of(model, x):
    with torch.no_grad():
        return model(x).numpy()


def deviation(found, wanted):
    """Relative to the largest value."""
    return np.abs(found - wanted).max() / np.abs(wanted).max()


def arch(name, **backbone):
    """One of the library, with other depths or width."""
    found = ARCHS[name]
    return dataclasses.replace(found, backbone=dataclasses.replace(found.backbone, **backbone))


def arrays(state):
    return {name: tensor.numpy() for name, tensor in state.items()}


def clips(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def normalised(video, found):
    """`[b t h w c]` pixels to PyTorch's `[b c t h w]` in the network's input range."""
    config = found.backbone
    x = (video - np.array(config.input_mean)) / np.array(config.input_scale)
    return torch.tensor(np.moveaxis(x, -1, 1), dtype=torch.float32)


def ours(found, state, video):
    """Features `[b t h w c]` and logits of our network."""
    variables = convert_torch.convert(state, found)
    classes = len(variables["params"]["classifier"]["bias"])
    module = classifier.build(convert_torch.model_config(found), classes)
    logits, out = jax.jit(module.apply)(variables, video)
    return np.asarray(out["features"]), np.asarray(logits)


def run_3d(model, x):
    """Features `[b t h w c]` and logits of a PyTorchVideo network."""
    kept = []
    last = model.blocks[-2]
    hook = last.register_forward_hook(lambda module, inputs, output: kept.append(output))
    with torch.no_grad():
        logits = model(x).numpy()
    hook.remove()
    return np.moveaxis(kept[0].numpy(), 1, -1), logits


def compare(name, found, wanted):
    """Relative to the largest value; the figure goes to the report of `pytest -rP`."""
    print(f"{name}: {deviation(found, wanted):.2g}")
    assert found.shape == wanted.shape
    assert wanted.std() > 0.05 * np.abs(wanted).max()
    assert deviation(found, wanted) < 1e-4


def compare_logits(name, found, state, video, model):
    """Our network with its arrays against a PyTorch one; returns our logits and its input."""
    logits, x = ours(found, state, video)[1], normalised(video, found)
    compare(f"{name} logits", logits, logits_of(model, x))
    return logits, x


def with_head(found, **head):
    """A network with other choices of its head."""
    return dataclasses.replace(found, head=dataclasses.replace(found.head, **head))
