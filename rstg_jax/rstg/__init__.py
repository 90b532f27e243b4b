"""The method: recurrent space-time graphs. Needs only `rstg_jax.layers` and `rstg_jax.errors`."""

from rstg_jax.rstg import presets
from rstg_jax.rstg.block import RSTG, RSTGOutput, init_state, to_map, to_vec
from rstg_jax.rstg.config import RSTGConfig, stage_plan

__all__ = [
    "RSTG",
    "RSTGConfig",
    "RSTGOutput",
    "init_state",
    "presets",
    "stage_plan",
    "to_map",
    "to_vec",
]
