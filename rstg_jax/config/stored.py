"""Configurations as JSON: to and from it, their hash, their differences."""

import dataclasses
import hashlib
import json
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

from rstg_jax.config.overrides import nearest
from rstg_jax.config.values import (
    classes,
    construct,
    element_hints,
    finite,
    options,
    unknown_class,
    wrong_type,
)
from rstg_jax.errors import UserError

T = TypeVar("T")
CLASS_KEY = "class"


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


def check(config: Any, prefix: str = "") -> None:
    """Raises `UserError` for a field that is not of its annotated type, such as a misspelt choice.

    NaN and infinity count as no numbers.

    Python checks no annotations, so that a configuration that code makes may hold anything.

    Args:
      config: the configuration, all of whose sections are checked.
      prefix: of the keys in messages.
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, hint, key = getattr(config, field.name), hints[field.name], prefix + field.name
        choices = tuple(classes(hint).values())
        if type(value) in choices:
            check(value, f"{key}.")
        elif isinstance(value, choices):
            raise UserError(
                f"config key {key!r}: what {type(value).__name__} adds to {choices[0].__name__} "
                "would have no effect; data sets, backbones and heads alone can be classes of your "
                "own"
            )
        elif dataclasses.is_dataclass(value) or isinstance(value, Mapping):
            raise wrong_type(key, value, hint)
        else:
            _check(_plain(value), hint, key)


def config_hash(config: Any) -> str:
    """Returns the first 12 hexadecimal digits of the SHA-256 of the canonical JSON."""
    canonical = json.dumps(to_dict(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def diff(a: Any, b: Any) -> list[str]:
    """Returns one line per differing key, such as ``model.rstg.dim: 64 != 32``; see `differing`."""
    return [f"{key}: {left} != {right}" for key, left, right in differing(a, b)]


def differing(a: Any, b: Any) -> list[tuple[str, Any, Any]]:
    """Returns every differing key with both values.

    Where two sections are of different classes, keys that only one of these has are left out.

    Takes configurations or the dicts that `to_dict` made from them.
    """
    left, right = (_flat(x if isinstance(x, dict) else to_dict(x)) for x in (a, b))
    absent = "(absent)"
    other_class = tuple(
        key.removesuffix("class")
        for key in left.keys() & right.keys()
        if key.endswith(".class") and left[key] != right[key]
    )
    return [
        (key, left.get(key, absent), right.get(key, absent))
        for key in [*left, *(k for k in right if k not in left)]
        if left.get(key, absent) != right.get(key, absent)
        and not (key.startswith(other_class) and (key in left) != (key in right))
    ]


def matches(key: str, names: Iterable[str]) -> bool:
    """Whether a dotted key is one of some names, or lies in a section of that name."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in plain.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _check(value: Any, hint: Any, key: str) -> Any:
    """Converts a JSON value to the annotated type: lists to tuples, dicts to dataclasses."""
    for option in options(hint):
        if option is type(None) and value is None:
            return None
        if option is float and type(value) in (int, float):
            try:
                return finite(float(value), value, key)
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
