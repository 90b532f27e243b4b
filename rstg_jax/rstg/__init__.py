"""The method: recurrent space-time graphs. Needs nothing else of the library but `layers`."""

from rstg_jax.rstg.block import RSTG, RSTGOutput, init_state, to_map, to_vec
from rstg_jax.rstg.config import RSTGConfig, stage_plan

__all__ = ["RSTG", "RSTGConfig", "RSTGOutput", "init_state", "stage_plan", "to_map", "to_vec"]
