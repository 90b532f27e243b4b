"""The count of operations: against a count by PyTorch, by XLA, and the figure of the release."""

import json
import sys

import pytest

from benchmarks import block, operations
from rstg_jax.rstg import presets

SMALL = presets.official("sync_mnist", dim=32), presets.modern(dim=32)
FEATURES = (2, 5, 6, 6, 16)


@pytest.mark.parametrize("config", SMALL, ids=["official", "modern"])
def test_release_computes_what_pytorch_counts(config):
    """The peer is written as the release: all pairs, full concatenation, pooling as a product."""
    torch = pytest.importorskip("torch", reason="pip install -r requirements-torch.txt")
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.peers import torch_rstg

    module = torch_rstg.RSTG(config, FEATURES[2:4], FEATURES[-1]).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(FEATURES))
    parts = operations.release_parts(config, FEATURES)
    # PyTorch's counter knows neither its LSTM nor a sum of elementwise products.
    uncounted = parts["LSTM"] + parts["weighted sum"]
    assert counter.get_total_flops() == 2 * (sum(parts.values()) - uncounted)


def test_lstm_of_the_release_by_hand():
    # Four LSTMs of 14 nodes, 10 frames of 2 clips: 4 gates, each of an input and a state.
    parts = operations.release_parts(presets.modern(dim=32), (2, 10, 6, 6, 16))
    assert parts["LSTM"] == 4 * 14 * 20 * 4 * (32 * 32 + 32 * 32)


def test_release_figures_of_the_whole_blocks():
    """6.35 GMAC on SyncMNIST, as docs/models.md says."""
    config, features = presets.official("sync_mnist"), (1, 10, 6, 6, 512)
    total = sum(operations.release_parts(config, features).values())
    assert round(total / 1e9, 2) == 6.35


def test_blocks_of_experiments_are_read_where_they_stand():
    chosen = operations.blocks()
    assert chosen["Something-Something res4, official"][1] == (1, 16, 14, 14, 1024)
    assert chosen["Something-Something res2, official"][1] == (1, 32, 55, 55, 256)
    assert chosen["SyncMNIST demo"][1] == (1, 10, 8, 8, 64)


def test_compiler_counts_every_product_and_what_is_elementwise():
    config, features = presets.official("sync_mnist", dim=64), (1, 10, 6, 6, 64)
    program = operations.program_macs(config, features)
    assert program < operations.xla_macs(config, features) < 1.1 * program


def test_tables_and_json(tmp_path, monkeypatch, capsys):
    one = {operations.PARTS_OF: (SMALL[0], FEATURES)}
    monkeypatch.setattr(operations, "blocks", lambda: one)
    monkeypatch.setattr(sys, "argv", ["operations", f"--json={tmp_path / 'figures.json'}"])
    operations.main()
    figures = json.loads((tmp_path / "figures.json").read_text())
    (row,) = figures["blocks"]
    assert row["needed"] == block.block_macs(*one[operations.PARTS_OF])
    for column in ("release", "needed"):
        assert sum(part[column] for part in figures["parts"]) == row[column]
    printed = capsys.readouterr().out.splitlines()
    assert len({len(line) for line in printed[:2]}) == 1
    assert printed[0].endswith("release / needed") and printed[1].startswith(operations.PARTS_OF)
