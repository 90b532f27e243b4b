"""Numbers made by the official TensorFlow-1 code (float32, CPU); see README.md here."""

import json
import pathlib
from typing import Any

import numpy as np

from rstg_jax.convert.official_block import convert_block
from rstg_jax.rstg import RSTGConfig, presets

Arrays = dict[str, np.ndarray]


def load(name: str) -> Arrays:
    """All arrays of `tests/golden/NAME.npz`."""
    with np.load(pathlib.Path(__file__).parent / f"{name}.npz") as arrays:
        return dict(arrays)


def block(name: str) -> tuple[Arrays, RSTGConfig, Any]:
    """The numbers of an official block, its configuration here, and its variables."""
    golden = load(name)
    config, channels = config_of(golden), golden["in/features"].shape[-1]
    return golden, config, convert_block(variables_of(golden, "var/"), config, channels=channels)


def config_of(golden: Arrays) -> RSTGConfig:
    """The preset for the flags that the official code ran with."""
    flags = json.loads(str(golden["meta_json"]))["params"]
    return presets.official(
        "sync_mnist" if flags["dataset"] == "mnist" else "something_something",
        flags["num_process_iter"],
        dim=flags["node_feat_dim"],
        scales=tuple(range(flags["num_scales"], 0, -1)),
        attention={"simple": "additive", "dot": "dot"}[flags["use_att"]],
        num_heads=8 if flags["multihead_att"] else 1,
        positions=flags["use_positional_emb"],
        update_per_scale=flags["scalewise_update"],
        update_layers=flags["update_layers"],
        post_norm={"none": "none", "LN": "layer", "BN": "batch"}[flags["use_norm"]],
        input_batch_norm=any("/batch_normalization/" in name for name in golden),
    )


def variables_of(golden: Arrays, prefix: str) -> Arrays:
    """The arrays whose names begin with a prefix, without it."""
    return {key.removeprefix(prefix): golden[key] for key in golden if key.startswith(prefix)}
