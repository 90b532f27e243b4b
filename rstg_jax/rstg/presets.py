"""Named configurations of the block.

`official` reproduces the authors' TensorFlow-1 release number for number. `modern` is the same
method with choices that are usual today: attention over real neighbours only, scaled logits, norms
per token (so that no output depends on future frames), pre-norm skip connections and a forget-gate
bias of 1.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from rstg_jax.errors import UserError
from rstg_jax.rstg.config import RSTGConfig, stage_plan

ITERATIONS = 3  # of the paper
# The released graph has three inner time stages, whatever the number of iterations.
OFFICIAL_INNER_TIME_STAGES = 3


def official(
    dataset: Literal["sync_mnist", "something_something"],
    iterations: int | None = None,
    **fields: Any,
) -> RSTGConfig:
    """Returns the released settings for a data set of the paper; `fields` replace single ones.

    Args:
      dataset: Of the paper.
      iterations: K of `official_stages`, 3 by default; not together with `stages`.
      **fields: Of `RSTGConfig`.

    Raises:
      UserError: There is no such data set, or the fields do not go together.
    """
    if dataset not in ("sync_mnist", "something_something"):
        raise UserError(f"no data set {dataset!r} in the paper: sync_mnist or something_something")
    settings: dict[str, Any] = {
        "dim": 512,
        **_plan(iterations, fields, official_stages),
        "masking": "multiply",
        "residual": False,
        "forget_bias": 0.0,
        "two_biases": True,
    }
    if dataset == "sync_mnist":
        settings |= {"attention": "additive", "positions": True, "input_batch_norm": True}
    else:
        settings |= {"attention": "dot", "positions": False, "post_norm": "layer"}
        settings |= {"update_per_scale": True}
    return RSTGConfig(**settings | fields)


def official_stages(iterations: int) -> tuple[str, ...]:
    """Returns the plan that the released code runs, without inner time stages after the third."""
    plan = stage_plan(iterations)
    start = 2 * OFFICIAL_INNER_TIME_STAGES
    late = tuple(stage for stage in plan[start:-1] if stage == "space")
    return plan[:start] + late + plan[-1:] if iterations > OFFICIAL_INNER_TIME_STAGES else plan


def modern(iterations: int | None = None, **fields: Any) -> RSTGConfig:
    """Returns the recommended configuration; `fields` replace single ones.

    Args:
      iterations: K of `stage_plan`, 3 by default; not together with `stages`.
      **fields: Of `RSTGConfig`.

    Raises:
      UserError: The fields do not go together.
    """
    return RSTGConfig(**_plan(iterations, fields, stage_plan) | fields)


def _plan(
    iterations: int | None,
    fields: Mapping[str, Any],
    plan: Callable[[int], tuple[str, ...]],
) -> dict[str, Any]:
    """The field `stages` of a preset, unless it is given."""
    if "stages" not in fields:
        return {"stages": plan(ITERATIONS if iterations is None else iterations)}
    if iterations is not None:
        raise UserError(
            f"iterations={iterations} and stages {fields['stages']} are two plans: give one of them"
        )
    return {}
