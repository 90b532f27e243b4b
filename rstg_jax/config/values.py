"""Values of a configuration: parsed from text by the type of their field.

Everything here works on one field or one class at a time.
"""

import ast
import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union

from rstg_jax.errors import UserError

T = TypeVar("T")


class Switch(str):
    """Text of a boolean that was given without a value: ``--config.KEY`` or ``--noconfig.KEY``."""


ON, OFF = Switch("true"), Switch("false")
_NO = object()  # "this text is not of that type", as distinct from None and False


def construct(cls: type[T], values: Mapping[str, Any], section: str) -> T:
    """Calls a dataclass; an error of its `__post_init__` names the section.

    Args:
      cls: the dataclass.
      values: its fields; the others take their defaults.
      section: dotted key of the section, empty for the whole configuration.
    """
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise in_section(error, section) from error


def in_section(error: Exception, section: str) -> UserError:
    """Returns `error` as a `UserError` that names the section, unless it already does."""
    text = str(error)
    if not section or text.startswith("config "):
        return UserError(text)
    return UserError(f"config section {section!r}: {text}")


def options(hint: Any) -> tuple[Any, ...]:
    """Returns the members of a union, or the annotation itself."""
    is_union = typing.get_origin(hint) in (Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def classes(hint: Any) -> dict[str, type]:
    """Returns the dataclasses that a field may hold, by name.

    A field that is annotated with an abstract base takes any subclass that has been imported.
    Others take the dataclasses of their annotation alone: functions read them, so that what a
    subclass adds would have no effect.
    """
    found: dict[str, type] = {}
    pending = [o for o in options(hint) if isinstance(o, type) and dataclasses.is_dataclass(o)]
    extensible = [cls for cls in pending if inspect.isabstract(cls)]
    while pending:
        cls = pending.pop(0)
        if cls in extensible:
            pending += cls.__subclasses__()
            extensible += cls.__subclasses__()
        if not inspect.isabstract(cls):
            found.setdefault(cls.__name__, cls)
    return found


def unknown_class(key: str, name: Any, choices: Mapping[str, type]) -> UserError:
    """Returns the error for a class name that no imported class has."""
    return UserError(
        f"config key {key!r}: no class {name!r}; choose one of: {', '.join(choices)}; "
        "the module of a class of your own must be imported first, in commands with --import=MODULE"
    )


def wrong_type(key: str, value: Any, hint: Any) -> UserError:
    """Returns the error for a value that is not of the annotated type."""
    if typing.get_origin(hint) is Literal:
        words = ", ".join(map(str, typing.get_args(hint)))
        return UserError(f"config key {key!r}: {value!r} is not one of {words}")
    name = getattr(hint, "__name__", "") if isinstance(hint, type) else ""
    wanted = name or str(hint).replace("typing.", "")
    return UserError(f"config key {key!r}: {value!r} is not of type {wanted}")


def finite(number: float, given: Any, key: str) -> float:
    """Returns a number; most bounds let NaN pass, as nothing is below it.

    Raises:
      UserError: it is not finite; the message has what was `given`.
    """
    if not math.isfinite(number):
        raise UserError(f"config key {key!r}: {given} is no finite number")
    return number


def parse(text: str, hint: Any, key: str) -> Any:
    """Parses text as a value of the annotated type.

    Raises:
      UserError: the text is not of that type; the message names key, text and type.
    """
    if isinstance(text, Switch) and bool not in options(hint):
        if text == OFF:
            raise UserError(f"config key {key!r} is not a boolean: --noconfig.{key} cannot set it")
        raise UserError(f"config key {key!r} needs a value: --config.{key}=VALUE")
    if type(None) in options(hint) and text.lower() == "none":
        return None
    if text in classes(hint):
        return construct(classes(hint)[text], {}, key)
    for option in options(hint):
        value = _parse_one(text, option, key)
        if value is not _NO:
            return value
    if len(classes(hint)) > 1:
        raise unknown_class(key, text, classes(hint))
    raise wrong_type(key, text, hint)


def _parse_one(text: str, hint: Any, key: str) -> Any:
    if hint is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), _NO)
    if hint in (int, float):
        try:
            number = hint(text.replace("_", ""))
        except ValueError:
            return _NO
        return finite(number, text, key) if hint is float else number
    if hint is str:
        return text
    if hint is Any:
        try:
            return ast.literal_eval(text)
        except (SyntaxError, ValueError):
            return text
    if typing.get_origin(hint) is Literal:
        return next((v for v in typing.get_args(hint) if str(v) == text), _NO)
    if typing.get_origin(hint) is tuple:
        parts = _split(text)
        hints = element_hints(hint, len(parts))
        return _NO if hints is None else tuple(map(lambda p, h: parse(p, h, key), parts, hints))
    return _NO


def _split(text: str) -> list[str]:
    """Splits ``(a, (b, c), d{1,2})`` at the commas of the outermost level."""
    text = text.strip()
    if text[:1] + text[-1:] in ("()", "[]") and not _closes_early(text):
        text = text[1:-1]
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text + ","):
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    if depth:
        return [text]  # unbalanced brackets: not a list
    parts = [part.strip("'\"") for part in parts]
    return parts[:-1] if parts[-1] == "" else parts


def _closes_early(text: str) -> bool:
    """Returns whether the first bracket closes before the end, as in ``(1,2),(3,4)``."""
    depth = 0
    for i, c in enumerate(text):
        depth += (c in "([") - (c in ")]")
        if depth == 0:
            return i < len(text) - 1
    return False


def element_hints(hint: Any, length: int) -> list[Any] | None:
    """Returns the annotation of each element of a tuple, or None if it has another length."""
    args = typing.get_args(hint)
    if len(args) == 2 and args[1] is Ellipsis:
        return [args[0]] * length
    return list(args) if len(args) == length else None
