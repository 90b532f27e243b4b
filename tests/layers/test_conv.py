"""Convolutions of frames against plain loops, with every lowering."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rstg_jax.layers import conv
from rstg_jax.layers.conv import Conv2D

CASES = [
    (3, 1, "SAME"),
    (3, 2, "SAME"),
    (5, 2, "SAME"),
    (8, 4, "SAME"),
    (3, 1, "VALID"),
    (3, 2, "VALID"),
]
RUNS = {"xla": conv.conv, "for CPUs": conv.conv_for_cpus, "by frames": conv.conv_frame_by_frame}


def drawn(size):
    rng = np.random.default_rng(size)
    return rng.normal(size=(2, 9, 11, 3)), rng.normal(size=(size, size, 3, 4))


def loops(x, kernel, stride, padding, d_y=None):
    """The convolution in float64, pixel by pixel; with `d_y` its gradients of `x` and `kernel`."""
    size = len(kernel)
    pads = [(0, 0), (0, 0)]
    if padding == "SAME":
        needed = [max((-(-side // stride) - 1) * stride + size - side, 0) for side in x.shape[1:3]]
        pads = [(pixels // 2, pixels - pixels // 2) for pixels in needed]
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    height, width = ((side - size) // stride + 1 for side in padded.shape[1:3])
    y = np.zeros((len(x), height, width, kernel.shape[-1]))
    d_padded, d_kernel = np.zeros_like(padded), np.zeros_like(kernel)
    for r in range(height):
        for c in range(width):
            under = np.s_[:, r * stride : r * stride + size, c * stride : c * stride + size]
            y[:, r, c] = np.einsum("bijc,ijcf->bf", padded[under], kernel)
            if d_y is not None:
                d_kernel += np.einsum("bijc,bf->ijcf", padded[under], d_y[:, r, c])
                d_padded[under] += np.einsum("ijcf,bf->bijc", kernel, d_y[:, r, c])
    if d_y is None:
        return y
    inside = [
        slice(before, before + side) for (before, _), side in zip(pads, x.shape[1:3], strict=True)
    ]
    return d_padded[:, inside[0], inside[1]], d_kernel


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize(("size", "stride", "padding"), CASES)
def test_values_and_gradients_are_those_of_plain_loops(run, size, stride, padding):
    agrees_with_loops(run, *drawn(size), stride, padding)


def test_wide_maps(monkeypatch):
    monkeypatch.setattr(conv, "WIDE", 3)
    agrees_with_loops(conv.conv_for_cpus, *drawn(3), 2, "SAME")
    program = str(jax.make_jaxpr(lambda *arrays: conv.conv_for_cpus(*arrays, 1, "SAME"))(*drawn(3)))
    assert "conv_general" not in program


def agrees_with_loops(run, x, kernel, stride, padding):
    expected = loops(x, kernel, stride, padding)
    d_y = np.random.default_rng(1).normal(size=expected.shape)
    with jax.enable_x64(True):
        y, pullback = jax.vjp(lambda x, kernel: run(x, kernel, stride, padding), x, kernel)
        got = y, *pullback(jnp.asarray(d_y))
    for ours, theirs in zip(got, (expected, *loops(x, kernel, stride, padding, d_y)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("wanted", [(0,), (1,), (0, 1)], ids=["x", "kernel", "both"])
def test_forward_mode_second_derivatives_and_vmap_agree_with_xla(wanted):
    x, kernel = drawn(3)

    def results(run):
        def objective(*chosen):
            arrays = [x, kernel]
            for position, array in zip(wanted, chosen, strict=True):
                arrays[position] = array
            return jnp.sum(jnp.sin(run(*arrays, 2, "SAME")))

        chosen = [(x, kernel)[position] for position in wanted]
        along = [np.cos(array) for array in chosen]
        slope = jax.jvp(objective, chosen, along)
        curvature = jax.jvp(jax.grad(objective, range(len(wanted))), chosen, along)
        stacks = [np.stack([array, 2 * array]) for array in chosen]
        return slope, curvature, jax.vmap(jax.grad(objective))(*stacks)

    with jax.enable_x64(True):
        ours, theirs = (results(RUNS[name]) for name in ("for CPUs", "xla"))
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(theirs)) > 1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), ours, theirs)


@pytest.mark.parametrize("lowering", ["xla", "matmul"])
def test_the_gradient_of_the_kernel_is_lowered_as_the_layer_says(lowering):
    x = jnp.ones((2, 9, 9, 3))
    layer = Conv2D(4, 3, 2, "SAME", lowering)
    variables = layer.init(jax.random.key(0), x)
    program = str(jax.make_jaxpr(jax.grad(lambda v: layer.apply(v, x).sum()))(variables))
    assert ("dot_general" in program) == (lowering == "matmul")


def test_a_cpu_of_many_devices_convolves_as_accelerators_do(monkeypatch):
    """A loop over frames would gather those of all devices."""
    programs = []
    for one_cpu in (True, False):
        monkeypatch.setattr(conv, "flattens", lambda one_cpu=one_cpu: one_cpu)
        layer, x = Conv2D(4), jnp.ones((2, 9, 9, 3))
        variables = layer.init(jax.random.key(0), x)
        loss = jax.grad(lambda v, layer=layer, x=x: layer.apply(v, x).sum())
        programs.append("scan" in str(jax.make_jaxpr(loss)(variables)))
    assert programs == [True, False]
