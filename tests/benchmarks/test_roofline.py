"""The paper estimate, on a program whose operations and bytes can be counted by hand."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import roofline
from rstg_jax import config, summary
from rstg_jax.models import flops


def test_bound_of_a_scan_of_products():
    def program(x, w):  # 5 times [4 8] by [8 8], then [4 8] by [8 2]
        x, _ = jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=5)
        return x @ w[:, :2]

    x, w = jnp.ones((4, 8), jnp.bfloat16), jnp.ones((8, 8), jnp.bfloat16)
    found = list(flops.products(jax.make_jaxpr(program)(x, w).jaxpr))
    assert [(p.macs, p.bytes, p.times) for p in found] == [
        (4 * 8 * 8, 2 * (4 * 8 + 8 * 8 + 4 * 8), 5),
        (4 * 8 * 2, 2 * (4 * 8 + 8 * 2 + 4 * 2), 1),
    ]
    # The first kind is bound by operations (512 / 1.0), the second by bytes (112 / 0.5).
    chip = roofline.Chip("slow", "", flops=1.0, bandwidth=0.8, link=2.0)
    row = roofline.estimate(found, 16, 3, chip, chips=4)
    bound = 5 * max(512, 256 / 0.8) + max(128, 112 / 0.8)
    assert row["bound_ms"] == pytest.approx(1e3 * bound)
    assert row["compute_share_of_bound"] == pytest.approx((5 * 512 + 128) / bound)
    assert row["summing_gradients_ms"] == pytest.approx(1e3 * 2 * 64 * 0.75 / 1.0)
    seconds = bound / roofline.REACHED + 96
    assert row["clips_per_second"] == pytest.approx(12 / seconds)


def test_a_training_step_is_three_forward_passes():
    """But for the gradient to the video, which nobody needs, and the optimiser's own products."""
    experiment = config.load("configs/smt.py:tiny")
    forward = summary.summarise(experiment, 12)["modules"][""]["macs"]
    macs = [
        sum(p.macs * p.times for p in roofline.training_step("configs/smt.py:tiny", 12, size)[0])
        for size in (2, 4)
    ]
    assert 2.3 * forward < (macs[1] - macs[0]) / 2 < 3.05 * forward
