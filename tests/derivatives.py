"""A function against one that is plainly right: values, gradients, tangents."""

import jax
import jax.numpy as jnp
import numpy as np


def assert_same(run, plain, loss, arguments, tolerance):
    """Compares results, gradients of first and second order by all arguments, and tangents.

    Args:
      run: the function.
      plain: the other one.
      loss: a number from what they return.
      arguments: of both.
      tolerance: in shares of the largest value of an array, or of 1 if that is larger.
    """
    every = tuple(range(len(arguments)))

    def gradient(function):
        return jax.grad(lambda *arguments: loss(function(*arguments)), every)

    def slope(function):
        first = gradient(function)
        return lambda *arguments: sum((g**2).sum() for g in jax.tree.leaves(first(*arguments)))

    direction = jax.tree.map(jnp.cos, arguments)
    for compared in (
        lambda function: function(*arguments),
        lambda function: gradient(function)(*arguments),
        lambda function: jax.grad(slope(function), every)(*arguments),
        lambda function: jax.jvp(function, arguments, direction),
    ):
        got, expected = (jax.jit(compared, static_argnums=0)(f) for f in (run, plain))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, atol=tolerance * max(1, np.abs(b).max()))
