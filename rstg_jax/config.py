"""Configurations as nested frozen dataclasses: load, override, store, compare.

This module knows nothing about experiments. A configuration is a tree of frozen dataclasses whose
leaves are int, float, bool, str, None, Literal or (nested) tuples of these. A field may also be a
union of dataclasses, or an abstract dataclass with subclasses; the name of the chosen class is then
stored under the key ``class``.

    experiment = load("configs/sync_mnist.py:demo")
    experiment = override(experiment, {"train.batch_size": "8", "optim.clip_norm": "none"})
    same = from_dict(type(experiment), json.loads(json.dumps(to_dict(experiment))))

Every mistake in a key or a value raises `UserError`; the message contains the full key.
"""

import dataclasses
import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import json
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from rstg_jax.config_values import (
    classes,
    construct,
    element_hints,
    in_section,
    options,
    parse,
    unknown_class,
    wrong_type,
)
from rstg_jax.errors import UserError

T = TypeVar("T")
CLASS_KEY = "class"
_LONG_KEY = 100  # characters that are compared; the time grows with their square


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
        files = ", ".join(sorted(map(str, folder.glob("*.py")))) or "none here"
        raise UserError(f"no config file {name!r}; choose one of: {files}")
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
    spec.loader.exec_module(module)
    return module


def import_modules(names: Iterable[str]) -> None:
    """Imports modules that define data sets or backbones, so that configs can name their classes.

    Raises:
      UserError: there is no such module.
    """
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
        raise UserError(f"no variant {variant!r}; choose one of: {', '.join(variants)}")
    return variants[variant]()


def override(config: T, changes: Mapping[str, str]) -> T:
    """Returns `config` with some leaves replaced.

    Args:
      config: a frozen dataclass.
      changes: dotted key -> value as text. A tuple is written ``3,2,1`` or ``(3,2,1)``, None is
        written ``none``. A field that may hold several classes takes the name of one of them and
        then has the defaults of that class.

    Raises:
      UserError: the key is unknown (the message names the nearest one), the value has the wrong
        type (it names key, value and type), or a dataclass refuses the combination.
    """
    known = list(keys(config))
    for key in changes:
        if key not in known and not _in_replaced_section(config, key, changes):
            raise UserError(f"no config key {key!r}; the nearest is {nearest(key, known)!r}")
    return _override(config, dict(changes), "")


def keys(config: Any, prefix: str = "") -> Iterator[str]:
    """Yields the dotted keys of all fields, including those of sections."""
    for field in dataclasses.fields(config):
        yield prefix + field.name
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from keys(value, f"{prefix}{field.name}.")


def is_boolean(cls: Any, key: str) -> bool:
    """Returns whether a dotted key of a dataclass, or of any class it may hold, is boolean."""
    name, _, rest = key.partition(".")
    hint = typing.get_type_hints(cls).get(name)
    if rest:
        return any(is_boolean(section, rest) for section in classes(hint).values())
    return bool in options(hint)


def nearest(key: str, known: list[str]) -> str:
    """Returns the known key that is most similar to `key`, as a whole or in its last part."""
    key = key[:_LONG_KEY]

    def likeness(candidate: str) -> tuple[float, float]:
        whole = difflib.SequenceMatcher(None, key, candidate).ratio()
        last = difflib.SequenceMatcher(None, key.split(".")[-1], candidate.split(".")[-1]).ratio()
        return max(whole, last), whole

    return max(known, key=likeness)


def to_dict(config: Any) -> dict[str, Any]:
    """Returns the configuration as dicts, lists and scalars that JSON can represent."""
    hints = typing.get_type_hints(type(config))
    plain = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            tag = {CLASS_KEY: type(value).__name__} if len(classes(hints[field.name])) > 1 else {}
            plain[field.name] = tag | to_dict(value)
        else:
            plain[field.name] = _plain(value)
    return plain


def from_dict(cls: type[T], plain: Mapping[str, Any], prefix: str = "") -> T:
    """Builds a configuration from the output of `to_dict`; missing keys take their defaults."""
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name in plain:
        if name not in names and name != CLASS_KEY:
            raise UserError(
                f"no config key {prefix + name!r}; the nearest is {prefix + nearest(name, names)!r}"
            )
    values = {n: _check(plain[n], hints[n], prefix + n) for n in names if n in plain}
    return construct(cls, values, prefix.rstrip("."))


def config_hash(config: Any) -> str:
    """Returns the first 12 hexadecimal digits of the SHA-256 of the canonical JSON."""
    canonical = json.dumps(to_dict(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def diff(a: Any, b: Any) -> list[str]:
    """Returns one line per differing key, such as ``model.rstg.dim: 64 != 32``.

    Takes configurations or the dicts that `to_dict` made from them.
    """
    left, right = (_flat(x if isinstance(x, dict) else to_dict(x)) for x in (a, b))
    absent = "(absent)"
    return [
        f"{key}: {left.get(key, absent)} != {right.get(key, absent)}"
        for key in [*left, *(k for k in right if k not in left)]
        if left.get(key, absent) != right.get(key, absent)
    ]


def _flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in plain.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _in_replaced_section(config: Any, key: str, changes: Mapping[str, str]) -> bool:
    """Returns whether another change replaces the class of the section that contains `key`."""
    known = set(keys(config))
    return any(key.startswith(section + ".") and section in known for section in changes)


def _override(config: Any, changes: Mapping[str, str], prefix: str) -> Any:
    """Calls `replace` once per section, so that interdependent keys can change together."""
    hints = typing.get_type_hints(type(config))
    values: dict[str, Any] = {}
    for key, text in sorted(changes.items(), key=lambda item: item[0].count(".")):
        name, _, rest = key.partition(".")
        if not hasattr(config, name):
            raise UserError(
                f"no config key {prefix + key!r}; "
                f"the nearest is {prefix + nearest(name, list(keys(config)))!r}"
            )
        if not rest:
            values[name] = parse(text, hints[name], prefix + name)
    for name in dict.fromkeys(key.partition(".")[0] for key in changes if "." in key):
        section = values.get(name, getattr(config, name))
        inner = {k.partition(".")[2]: v for k, v in changes.items() if k.startswith(name + ".")}
        if not dataclasses.is_dataclass(section):
            raise UserError(
                f"config key {prefix + name!r} is {section!r}: it has no {next(iter(inner))!r}"
            )
        values[name] = _override(section, inner, f"{prefix}{name}.")
    try:
        return dataclasses.replace(config, **values)
    except ValueError as error:
        raise in_section(error, prefix.rstrip(".")) from error


def _check(value: Any, hint: Any, key: str) -> Any:
    """Converts a JSON value to the annotated type: lists to tuples, dicts to dataclasses."""
    for option in options(hint):
        if option is type(None) and value is None:
            return None
        if option is float and type(value) in (int, float):
            try:
                return float(value)
            except OverflowError:  # JSON has integers of any size
                continue
        if (option in (int, bool, str) and type(value) is option) or option is Any:
            return value
        if typing.get_origin(option) is Literal and value in typing.get_args(option):
            return value
        if typing.get_origin(option) is tuple and isinstance(value, list | tuple):
            hints = element_hints(option, len(value))
            if hints is not None:
                return tuple(map(lambda v, h: _check(v, h, key), value, hints))
    choices = classes(hint)
    if isinstance(value, Mapping) and choices:
        name = value.get(CLASS_KEY, next(iter(choices)))
        if not isinstance(name, str) or name not in choices:
            raise unknown_class(key, name, choices)
        return from_dict(choices[name], value, key + ".")
    raise wrong_type(key, value, hint)
