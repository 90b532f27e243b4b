"""Array types for shape annotations such as `Float[Array, "n t b d"]`.

The annotations are documentation: nothing checks them at run time. The tests check them with
jaxtyping's import hook, see tests/conftest.py.
"""

from typing import TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import Bool, Float, Float32, Shaped

__all__ = ["Array", "Bool", "Float", "Float32", "Shaped"]

if TYPE_CHECKING:
    Array = jax.Array
else:
    Array = jax.Array | np.ndarray  # JAX takes NumPy arrays wherever it takes its own
