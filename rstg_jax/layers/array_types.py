"""Array types for shape annotations such as `Float[Array, "n t b d"]`.

The annotations are documentation: nothing checks them at run time. The tests check them with
jaxtyping's import hook, see tests/conftest.py.
"""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

__all__ = ["Array", "Bool", "Float", "Float32", "Float64", "Int", "Shaped"]

try:
    from jaxtyping import Bool, Float, Float32, Float64, Int, Shaped
except ModuleNotFoundError:  # as on machines that have JAX and little else

    class _Undocumented:
        def __class_getitem__(cls, item: Any) -> Any:
            return Any

    Bool = Float = Float32 = Float64 = Int = Shaped = _Undocumented  # type: ignore[assignment]

if TYPE_CHECKING:
    Array = jax.Array
else:
    Array = jax.Array | np.ndarray  # JAX takes NumPy arrays wherever it takes its own
