"""Shows that XLA computes wrong gradients on meshes with three axes, and what avoids it.

    python -m benchmarks.mesh_gradients

The function is ``tanh(tanh(x @ w) @ w).sum()``, on eight virtual CPU devices. Rows of ``x`` are cut
along data and fsdp, ``w`` along fsdp (inputs) and model (outputs), as in training. Errors are those
of the gradient, relative to its largest entry on one device. "gathered" is with the constraint of
`rstg_jax.training.sharding.gather_weights`, which training uses. Needs nothing but JAX and NumPy.

On 2 x 2 x 2 the gradient is wrong by 17% with jax 0.10.2 and 0.12.0.1 (2026-11-27), with GSPMD as
with Shardy. Status 0 if every gradient is right without the constraint: then it can go.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import argparse
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "model")
MESHES = ((8, 1, 1), (4, 2, 1), (4, 1, 2), (1, 2, 4), (1, 4, 2), (2, 2, 2))
RIGHT = 1e-5


def function(w: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.tanh(jnp.tanh(x @ w) @ w).sum()


def error(shape: tuple[int, int, int], gathered: bool) -> float:
    """The largest error of the gradient on a mesh, relative to its largest entry."""
    rng = np.random.default_rng(0)
    w, x = (rng.normal(size=(rows, 8)).astype(np.float32) for rows in (8, 16))
    mesh = jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3)
    rows, cut, whole = (
        NamedSharding(mesh, PartitionSpec(*spec))
        for spec in ((("data", "fsdp"),), ("fsdp", "model"), (None, "model"))
    )

    def objective(w: jax.Array, x: jax.Array) -> jax.Array:
        return function(jax.lax.with_sharding_constraint(w, whole) if gathered else w, x)

    expected = jax.grad(function)(w, x)
    actual = jax.jit(jax.grad(objective), in_shardings=(cut, rows), out_shardings=cut)(w, x)
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mesh_gradients", description=(__doc__ or "").split("\n")[0]
    )
    parser.parse_args(argv)
    print(f"jax {jax.__version__}")
    print(f"{'data x fsdp x model':<20}{'as it is':>12}{'gathered':>12}")
    right = True
    for shape in MESHES:
        errors = [error(shape, gathered) for gathered in (False, True)]
        right &= errors[0] < RIGHT
        print(f"{' x '.join(map(str, shape)):<20}{errors[0]:>12.1e}{errors[1]:>12.1e}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
