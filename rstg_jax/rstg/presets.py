"""Named combinations of the block's choices.

`official` reproduces the authors' TensorFlow-1 release number for number. `modern` keeps the method
and makes the sensible choices: attention over real neighbours only, scaled logits, one norm per
token (so nothing looks at future frames), pre-norm skip connections and a forget-gate bias of 1.
"""

from typing import Any, Literal

from rstg_jax.rstg.block import RSTGConfig, stage_plan

# The released graph has three inner time stages, however many iterations are asked for.
OFFICIAL_INNER_TIME_STAGES = 3


def official(
    dataset: Literal["sync_mnist", "something_something"], iterations: int = 3, **fields: Any
) -> RSTGConfig:
    """The released settings for one of the paper's data sets; `fields` replace single choices."""
    settings: dict[str, Any] = {
        "dim": 512,
        "stages": official_stages(iterations),
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
    """The plan that the released code runs: no inner time stage after the third."""
    plan = stage_plan(iterations)
    start = 2 * OFFICIAL_INNER_TIME_STAGES
    late = tuple(stage for stage in plan[start:-1] if stage == "space")
    return plan[:start] + late + plan[-1:] if iterations > OFFICIAL_INNER_TIME_STAGES else plan


def modern(iterations: int = 3, **fields: Any) -> RSTGConfig:
    """The recommended block; `fields` replace single choices."""
    return RSTGConfig(**{"stages": stage_plan(iterations)} | fields)
