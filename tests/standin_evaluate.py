"""`rstg_jax.evaluate` with the stand-in model and named videos, as one of several processes.

python -m tests.standin_evaluate --workdir=DIR [--flags of evaluate]
"""

import sys

import pytest

from rstg_jax import cli, evaluate
from tests import standins


class Named(standins.Source):
    """Names of differing lengths, those of the second half the longer ones."""

    def batch(self, indices):
        names = standins.np.array([f"{'v' * (1 + i // 4)}{i}" for i in indices])
        return {**super().batch(indices), "id": names}


def main() -> int:
    with pytest.MonkeyPatch.context() as monkeypatch:
        standins.install(monkeypatch, test=Named("test"))
        return evaluate.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(cli.run(main))
