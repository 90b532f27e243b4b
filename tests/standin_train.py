"""`train.py` with the stand-in model and data, as a process of its own for the tests to kill.

python -m tests.standin_train WORKDIR [VIDEOS_A_SECOND] [--key=value of TrainConfig ...]
"""

import dataclasses
import sys
import time

import pytest

import train
from rstg_jax import cli, config
from tests import standins


@dataclasses.dataclass
class SlowSource(standins.Source):
    """Takes its time, so that there is time to be killed in."""

    seconds: float = 0.0

    def batch(self, indices):
        time.sleep(self.seconds)
        return super().batch(indices)


def main() -> int:
    workdir, seconds, *flags = sys.argv[1:]
    source = SlowSource(size=standins.data.ENDLESS, seconds=float(seconds))
    with pytest.MonkeyPatch.context() as monkeypatch:
        standins.install(monkeypatch, train=source)
        monkeypatch.setattr(config, "load", lambda _: standins.experiment())
        return train.main(["--config=standin", f"--workdir={workdir}", *flags])


if __name__ == "__main__":
    sys.exit(cli.run(main))
