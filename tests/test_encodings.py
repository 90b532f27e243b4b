"""Every text that is read or written has a named encoding; otherwise the locale would decide."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("rstg_jax", "tfds_builders", "benchmarks", "configs")
FILES = [ROOT / "train.py", *(file for name in FOLDERS for file in (ROOT / name).rglob("*.py"))]
# `rstg_jax.files` writes UTF-8; the others open videos.
OTHERS = ("files", "av")
TEXT_MODES = {mode + more for mode in "rwax" for more in ("", "t", "+")}


def leaves_encoding_open(call: ast.Call) -> bool:
    """Whether a call reads or writes a text in the encoding of the locale."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    owner = getattr(getattr(call.func, "value", None), "id", "")
    if any(keyword.arg == "encoding" for keyword in call.keywords) or owner in OTHERS:
        return False
    if name in ("read_text", "write_text"):
        return len(call.args) == (name == "write_text")
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    constants = {value.value for value in values if isinstance(value, ast.Constant)}
    default = len(values) == isinstance(call.func, ast.Name)  # open(path), path.open()
    return name in ("open", "fdopen") and (default or bool(constants & TEXT_MODES))


def test_texts_have_an_encoding():
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_bytes()))
        if isinstance(node, ast.Call) and leaves_encoding_open(node)
    ]
    assert not found
