"""Folders import in one direction: rows import lower rows only."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rstg_jax"
# From top to bottom. A folder imports from itself and from the rows below it.
ROWS = (
    ("commands",),
    ("viz",),
    ("inference",),
    ("convert",),
    ("training",),
    ("models",),
    ("rstg", "data"),  # these two do not know each other
    ("layers",),
    ("cli",),
    ("config", "files"),
    ("machine", "processes", "storage"),
    ("limits",),
    ("errors",),
)
HEIGHT = {name: number for number, row in enumerate(reversed(ROWS)) for name in row}
# Stricter than the rows: all that a folder may import.
ONLY = {
    "rstg": {"rstg", "layers", "errors"},
    "layers": {"layers", "errors"},
    "errors": set(),
}
NOT = {"convert": {"training.run", "training.train_loop"}}


def modules() -> dict[str, Path]:
    """Dotted names below rstg_jax, such as "rstg.block", to files."""
    files = {p.relative_to(PACKAGE): p for p in sorted(PACKAGE.rglob("*.py"))}
    names = {".".join(file.with_suffix("").parts): path for file, path in files.items()}
    return {name.removesuffix(".__init__"): path for name, path in names.items()}


MODULES = modules()


def folder(module: str) -> str:
    """The first part of a module's name, or "commands" for commands beside the folders."""
    first = module.partition(".")[0]
    return first if first in HEIGHT else "commands"


def imports(path: Path) -> set[str]:
    """Modules of rstg_jax that a file imports anywhere in it, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "rstg_jax":
                ends = (".".join(parts[1:end]) for end in range(len(parts), 1, -1))
                found |= {next((end for end in ends if end in MODULES), "")} - {""}
    return found


def wrong_imports(module: str) -> list[str]:
    """Imports of a module that break a rule of the tables above."""
    own = folder(module)
    wrong = []
    for other in sorted(imports(MODULES[module])):
        there = folder(other)
        if there == own:
            continue
        upwards = HEIGHT[there] >= HEIGHT[own]
        if upwards or there not in ONLY.get(own, {there}) or other in NOT.get(own, ()):
            wrong.append(other)
    return wrong


@pytest.mark.parametrize("module", [name for name in MODULES if name != "__init__"])
def test_imports_point_downwards(module):
    assert not wrong_imports(module), f"rstg_jax.{module} imports {wrong_imports(module)}"


def test_no_module_imports_relatively():
    for path in MODULES.values():
        nodes = ast.walk(ast.parse(path.read_text()))
        assert not any(isinstance(node, ast.ImportFrom) and node.level for node in nodes), path


def test_weights_are_float32_whatever_jax_says():
    """Initialisers that get no type make float64 with jax_enable_x64."""
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".param"):
                assert "jnp.float32" in ast.unparse(node), f"{name}: {ast.unparse(node)}"
