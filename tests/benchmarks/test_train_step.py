"""The speed tables: that they can be made, and that they count the operations they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import block, machine
from rstg_jax.models import flops
from rstg_jax.rstg import presets
from rstg_jax.rstg.block import RSTG


@pytest.mark.parametrize("case", block.quick_cases(), ids=lambda case: case.name)
def test_rows_of_a_case(case):
    pytest.importorskip("torch", reason="pip install -r requirements-torch.txt")
    rows = block.measured(case, repeats=1, with_compile=False)
    assert [row["pass"] for row in rows] == ["forward", "training"]
    for row in rows:
        times = row["seconds"]
        assert row["ratio_to_torch"] == pytest.approx(times["torch"] / times["ours"])
        speed = row["gflop_needed"] / times["ours"]
        assert row["share_of_peak"]["ours"] == pytest.approx(speed / row["peak_gflops"])
    assert rows[1]["gflop_needed"] == pytest.approx(3 * rows[0]["gflop_needed"])
    lines = list(block.table(rows))
    assert len({len(line) for line in lines}) == 1 and len(lines) == 3


def test_needed_operations_by_hand():
    # One node with 3 features in one frame: it has no neighbour.
    config = presets.modern(1, dim=3, scales=(1,), positions=False)
    pool, lstms = 4 * 3, 2 * 8 * 9
    send, queries_and_keys, update = 2 * 9, 2 * 9, 3 * 9
    assert block.block_macs(config, (1, 1, 2, 2, 3)) == (
        pool + lstms + send + queries_and_keys + update
    )


@pytest.mark.parametrize(
    "config",
    [
        presets.official("sync_mnist"),
        presets.modern(dim=512),
        presets.modern(dim=512, differences=True, lags=(1, 2, 4)),
    ],
    ids=["official", "modern", "lags"],
)
def test_we_compute_little_more_than_is_needed(config):
    module, shape = RSTG(config), (2, 10, 6, 6, 512)
    features = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), features)
    done = flops.macs(jax.make_jaxpr(module.apply)(variables, features).jaxpr).total()
    needed = block.block_macs(config, shape)
    assert needed <= done <= 1.1 * needed


def test_best_seconds_take_turns():
    calls: list[str] = []
    runs = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = machine.best_seconds(runs, 2)
    assert calls == list("ababab")
    assert times.keys() == {"a", "b"} and min(times.values()) >= 0
    assert machine.peak_flops(2.0) == 2048**3
    assert np.shape(machine.large_product()()) == (2048, 2048)
