"""What the benchmarks count."""

import jax
import jax.numpy as jnp

from benchmarks.train_step import product_flops


def count(function, *args) -> float:
    return product_flops(jax.make_jaxpr(function)(*args).jaxpr)


def test_products_are_counted_with_their_scans():
    a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
    assert count(lambda a, b: a @ b, a, b) == 2 * 3 * 4 * 5

    def scanned(a, b):
        return jax.lax.scan(lambda carry, _: (carry, jax.jit(jnp.matmul)(a, b)), 0, length=7)[1]

    assert count(scanned, a, b) == 7 * 2 * 3 * 4 * 5
    # The gradient of a product is two products.
    assert count(jax.grad(lambda a, b: jnp.square(a @ b).sum(), (0, 1)), a, b) == 3 * 2 * 3 * 4 * 5


def test_convolutions_are_counted():
    image, kernel = jnp.ones((2, 8, 9, 3)), jnp.ones((3, 3, 3, 4))

    def conv(image, kernel):
        return jax.lax.conv_general_dilated(
            image, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    assert count(conv, image, kernel) == 2 * (2 * 6 * 7 * 4) * (3 * 3 * 3)
