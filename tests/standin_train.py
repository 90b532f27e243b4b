"""`train.py` with the stand-in model and data, as a process of its own for the tests to kill.

python -m tests.standin_train --workdir=WORKDIR [VIDEOS_A_SECOND] [--key=value of TrainConfig ...]
"""

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.modules["torch"] = None  # which tensorboardX would import: seconds in every process

import train
from rstg_jax import cli, config
from tests import standins

TEST_VIDEOS = "STANDIN_TEST_VIDEOS"  # variable with their number
ROOT = Path(__file__).parents[1]
LENGTH = ["--config.train.total_steps=60", "--config.train.checkpoint_every=7"]


@dataclasses.dataclass
class SlowSource(standins.Source):
    """Takes its time, so that there is time to be killed in."""

    seconds: float = 0.0

    def batch(self, indices):
        time.sleep(self.seconds)
        return super().batch(indices)


def launch(workdir, *flags, seconds=0.0, devices=1, before="", processes=1):
    """Starts it; `before` is code that its process runs first; several by the launcher."""
    flags_of_xla = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "tests.standin_train", f"--workdir={workdir}", str(seconds)]
    if processes > 1:
        command[1:1] = ["-m", "rstg_jax.launch", f"--processes={processes}"]
    if before:
        first = f"import os, sys; {before}; os.execv(sys.argv[1], sys.argv[1:])"
        command = [sys.executable, "-c", first, *command]
    return subprocess.Popen(
        [*command, *LENGTH, *flags],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags_of_xla},  # the last of two counts is used
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Waits for its end; returns its status and what it printed."""
    out, err = process.communicate(timeout=900)
    return process.returncode, out, err


def wait_for(condition, process, seconds=900):
    """Waits until a condition holds while it runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "the process got nowhere"
        time.sleep(0.02)


def main() -> int:
    workdir, seconds, *flags = sys.argv[1:]
    source = SlowSource(size=standins.data.ENDLESS, seconds=float(seconds))
    test = standins.Source("test", size=int(os.environ.get(TEST_VIDEOS, 37)))
    with pytest.MonkeyPatch.context() as monkeypatch:
        standins.install(monkeypatch, train=source, test=test)
        monkeypatch.setattr(config, "load", lambda _: standins.experiment())
        return train.main(["--config=standin", workdir, *flags])


if __name__ == "__main__":
    sys.exit(cli.run(main))
