"""Values given as text, such as those of the command line, in place of those of a config."""

import dataclasses
import difflib
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from rstg_jax.config.values import classes, in_section, options, parse
from rstg_jax.errors import UserError

T = TypeVar("T")
_LONG_KEY = 100  # characters that are compared; the time grows with their square


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
