"""RoIAlign against torchvision, and its edges against a loop."""

import importlib
import inspect
import itertools

import jax
import numpy as np
import pytest

from rstg_jax.layers.roi_align import roi_align

RNG = np.random.default_rng(0)
# y0 x0 y1 x1 in pixels of a map of 9x12. For samples farther outside torchvision's Python differs
# from its operators.
BOXES = np.array(
    [
        (0, 0, 9, 12),
        (1.3, 2.7, 6.1, 8.2),
        (-0.4, -0.3, 4, 5),  # a little over two edges
        (5, 7, 9, 12),  # to the others
        (3.2, 3.3, 3.6, 3.5),  # below one pixel
        (4, 1, 9, 2),
    ],
    np.float32,
)


@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align(aligned):
    from tests import torch_peers

    torch, _ = torch_peers.torch, torch_peers.torchvision()
    peer = importlib.import_module("torchvision.ops.roi_align")
    run = inspect.unwrap(peer._roi_align)  # in Python: the operators may be missing
    features = RNG.normal(size=(2, 9, 12, 3)).astype(np.float32)
    boxes = np.stack([BOXES, BOXES[::-1]])

    def theirs(aligned):
        rows = [
            np.concatenate([np.full((len(b), 1), i, np.float32), b[:, [1, 0, 3, 2]]], axis=1)
            for i, b in enumerate(boxes)
        ]
        maps = torch.tensor(np.moveaxis(features, -1, 1))
        out = run(maps, torch.tensor(np.concatenate(rows)), 1.0, 7, 7, -1, aligned)
        return np.moveaxis(out.numpy(), 1, -1).reshape(2, len(BOXES), 7, 7, 3)

    with jax.disable_jit():
        found = roi_align(features, boxes, aligned=aligned)
    torch_peers.compare(f"roi_align {aligned}", np.asarray(found), theirs(aligned))
    assert np.abs(found - theirs(not aligned)).max() > 0.1


def by_loop(image, box, samples, aligned):
    """The kernel of Detectron and torchvision, sample by sample; `image` `[h w c]`."""
    shift = 0.5 if aligned else 0.0
    start, end = box[:2] - shift, box[2:] - shift
    side = end - start if aligned else np.maximum(end - start, 1)
    out = np.zeros((7, 7, image.shape[-1]))
    for cell in np.ndindex(7, 7):
        for sample in np.ndindex(samples, samples):
            y, x = start + (np.array(cell) + (np.array(sample) + 0.5) / samples) * side / 7
            if not (-1 <= y <= image.shape[0] and -1 <= x <= image.shape[1]):
                continue
            y, x = np.clip((y, x), 0, np.array(image.shape[:2]) - 1)
            for row, column in itertools.product((int(y), int(y) + 1), (int(x), int(x) + 1)):
                weight = (1 - abs(y - row)) * (1 - abs(x - column))
                if weight > 0:
                    out[cell] += weight * image[row, column]
    return out / samples**2


@pytest.mark.parametrize("aligned", [False, True])
def test_samples_more_than_a_pixel_outside_count_as_zero(aligned):
    """Torchvision's operators do so, unlike its Python, which takes the pixel at the edge."""
    image = RNG.normal(size=(9, 12, 2)).astype(np.float32)
    boxes = np.array([(-4, -6, 5, 8), (6, 2, 14, 16)], np.float32)  # of 2x2 samples in a cell
    with jax.disable_jit():
        found = roi_align(image[None], boxes[None], aligned=aligned)[0]
    wanted = np.stack([by_loop(image, box, 2, aligned) for box in boxes])
    assert np.abs(wanted).min() == 0
    np.testing.assert_allclose(found, wanted, atol=1e-5)
