"""The README's Python examples run and give the shapes that their comments say."""

import pathlib
import re

import numpy as np

README = pathlib.Path(__file__).parent.parent / "README.md"


def test_block_example():
    names = {}
    for code in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL):
        exec(code, names)
    assert names["nodes"].shape == (2, 10, 14, 64)
    assert names["attention"].shape == (3, 2, 10, 14, 14)
    assert names["vector"].shape == (2, 64)
    assert names["back"].shape == (2, 10, 7, 7, 64)
    np.testing.assert_allclose(names["out"].nodes[:, 0], names["nodes"][:, -1], atol=1e-5)


def test_named_places_exist():
    table = README.read_text().split("## Where things are")[1]
    places = [
        place
        for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for place in re.findall(r"`(.*?)`", cell)
    ]
    assert len(places) > 20
    root, package = README.parent, README.parent / "rstg_jax"
    assert [p for p in places if not (root / p).exists() and not (package / p).exists()] == []
