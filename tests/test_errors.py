"""How errors list what is wrong."""

import pytest

from rstg_jax.errors import named


@pytest.mark.parametrize(
    ("number", "text"),
    [(1, "t0"), (3, "t0; t1; t2"), (4, "t0; t1; t2; and 1 more"), (9, "t0; t1; t2; and 6 more")],
)
def test_the_first_things_are_named_and_the_others_counted(number, text):
    assert named([f"t{k}" for k in range(number)], most=3) == text
    assert named(["a", "b"], ", ") == "a, b"
