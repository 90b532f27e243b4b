"""Shape annotations are checked in the tests, and by nothing at run time."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from rstg_jax.layers.linear import linear
from rstg_jax.layers.norms import LayerNorm
from rstg_jax.rstg import RSTG, presets, to_vec
from rstg_jax.rstg.recurrent_cells import scan_lstm


@pytest.mark.parametrize(
    "call",
    [
        lambda: linear(jnp.ones((2, 3)), jnp.ones((4, 5))),
        lambda: linear(jnp.ones((2, 3)), jnp.ones((3, 5)), jnp.ones(3)),
        lambda: jax.jit(linear)(jnp.ones((2, 3)), jnp.ones((4, 5))),
        lambda: jax.vmap(to_vec)(jnp.ones((2, 3, 4))),
        lambda: jax.grad(lambda x: to_vec(x).sum())(jnp.ones((2, 3, 4))),
        lambda: to_vec(jnp.ones((1, 2, 3, 4), int)),
        lambda: scan_lstm(jnp.ones((4, 12)), (jnp.ones((1, 4)),) * 2, jnp.ones((2, 1, 16))),
        lambda: RSTG(presets.modern(dim=4)).init(jax.random.key(0), jnp.ones((2, 1, 4, 4, 3), int)),
    ],
    ids=["product", "bias", "jit", "vmap", "grad", "integers", "custom_jvp", "module"],
)
def test_wrong_shapes_are_refused(call):
    with pytest.raises(TypeCheckError):
        call()


def test_right_shapes_pass_through_transformations():
    x = jnp.ones((3, 2, 4))

    def scanned(x):
        return jax.lax.scan(lambda c, row: (c + 1, linear(row, jnp.ones((4, 5)))), 0, x)[1].sum()

    assert jax.jit(jax.grad(scanned))(x).shape == x.shape
    assert jax.vmap(lambda row: linear(row, jnp.ones((4, 5))))(x).shape == (3, 2, 5)
    assert LayerNorm().init_with_output(jax.random.key(0), x)[0].shape == x.shape


def test_the_library_does_not_need_the_checker():
    program = (
        "import sys; sys.modules['beartype'] = None; import jax.numpy as jnp\n"
        "from rstg_jax.layers.linear import flattens, linear\n"
        "print(linear(jnp.ones((2, 3)), jnp.ones((3, 5))).shape)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "(2, 5)"), done.stderr
