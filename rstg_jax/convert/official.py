"""The command `python -m rstg_jax.convert.official`, see `rstg_jax.convert.official_tf`."""

import sys

from rstg_jax import cli
from rstg_jax.convert.official_tf import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
