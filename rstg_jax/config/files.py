"""Config files: which variant they give, and their names."""

import difflib
import functools
import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from rstg_jax.errors import UserError

T = TypeVar("T")


def load(spec: str) -> Any:
    """Returns the configuration ``FILE[:VARIANT]``.

    Args:
      spec: path of a Python file that defines ``get_config(variant) -> dataclass``, optionally
        followed by a colon and the variant; the default is that of `get_config`.

    Raises:
      UserError: the file or the variant does not exist; the message lists the choices.
    """
    name, _, variant = spec.partition(":")
    get_config = _get_config(name)
    return get_config(variant) if variant else get_config()


def run_name(spec: str) -> str:
    """Returns ``<config>/<variant>`` for ``FILE[:VARIANT]``, such as ``smt/map_res3_4``.

    The default variant is the default value of the first parameter of `get_config`.
    """
    name, _, variant = spec.partition(":")
    if not variant:
        parameters = inspect.signature(_get_config(name)).parameters.values()
        defaults = [p.default for p in parameters if isinstance(p.default, str)]
        variant = defaults[0] if defaults else "default"
    return f"{Path(name).stem}/{variant.replace('/', '_')}"


def _get_config(name: str) -> Callable[..., Any]:
    path = Path(name)
    if not path.is_file():
        folder = path.parent if path.parent.name and path.parent.is_dir() else Path("configs")
        if files := ", ".join(sorted(map(str, folder.glob("*.py")))):
            raise UserError(f"no config file {name!r}; choose one of: {files}")
        raise UserError(
            f"no config file {str(path.absolute())!r}; those that come with rstg_jax are in "
            "configs/ of its repository: start there, or give the path of a file"
        )
    module = _module(path.resolve(), path.stat().st_mtime_ns)
    if not hasattr(module, "get_config"):
        raise UserError(f"{name!r} does not define get_config(variant)")
    get_config: Callable[..., Any] = module.get_config
    return get_config


@functools.lru_cache
def _module(path: Path, modified: int) -> types.ModuleType:
    """Runs a config file once, so that classes that it defines exist once."""
    del modified  # part of the key of the cache
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"'{path}' is not a Python file")
    module = importlib.util.module_from_spec(spec)
    _search(path.parent)  # a config may import what lies beside it, as a script may
    spec.loader.exec_module(module)
    return module


def _search(directory: Path) -> None:
    """Lets Python find modules in a directory, after all other places."""
    if str(directory) not in sys.path:
        sys.path.append(str(directory))


def import_modules(names: Iterable[str]) -> None:
    """Imports modules that define data sets or backbones, so that configs can name their classes.

    Raises:
      UserError: there is no such module.
    """
    _search(Path.cwd())  # where `python FILE` does not look
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module exists, but something that it imports does not
            raise UserError(
                f"--import={name}: no module {error.name!r} in the current directory or installed"
            ) from error


def choose(variants: Mapping[str, Callable[[], T]], variant: str) -> T:
    """Returns the named variant, or raises `UserError` with the list of all variants."""
    if variant not in variants:
        close = "".join(f" ({v}?)" for v in difflib.get_close_matches(variant, variants, n=1))
        raise UserError(f"no variant {variant!r}{close}; choose one of: {', '.join(variants)}")
    return variants[variant]()
