"""Options for updates that are not finite.

`train.on_nan` chooses for an infinite or undefined loss, gradient, weight or running statistic:

    stop        an error with the step and the quantity
    skip:N      the update is left out: weights, optimiser and statistics stay as they were; after N
                of them in a run, an error
    rollback:N  back to the newest checkpoint, and on from there with the batches that follow the
                one that failed; after N times in a run, an error

Each is a function of config and data alone, so that a resumed run does the same.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from rstg_jax.errors import UserError

_PATTERN = re.compile(r"(stop)|(skip|rollback):([1-9]\d*)")
# Sums of `steps.train_step` that are finite if and only if the update was sound.
QUANTITIES = {
    "objective": "loss",
    "grad_norm": "norm of the gradient",
    "param_norm": "norm of weights or running statistics",
}


class Policy(NamedTuple):
    """The action ("stop", "skip" or "rollback"), and how many times in a run."""

    action: str
    limit: int


def parse(text: str) -> Policy:
    """Reads `train.on_nan`; raises `UserError` unless it is as described above."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise UserError(f"on_nan={text}: choose stop, skip:N or rollback:N, N being at least 1")
    return Policy(match[1] or match[2], int(match[3] or 0))


class NotFinite(UserError):
    """An update that was not finite.

    Attributes:
      step: the number of the update, from 1.
      what: the quantity and its value.
    """

    def __init__(self, step: int, what: str):
        super().__init__(f"the {what} at step {step}")
        self.step, self.what = step, what


def check(step: int, sums: Mapping[str, Any]) -> None:
    """Raises `NotFinite` if the sums of an update, from `steps.train_step`, are not finite."""
    for name, quantity in QUANTITIES.items():
        value = float(sums[name])
        if not math.isfinite(value):
            raise NotFinite(step, f"{quantity} became {value}")
