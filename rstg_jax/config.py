"""Mechanics of configurations: load, override, store, compare nested frozen dataclasses.

Nothing here knows what an experiment is. A configuration is a tree of frozen dataclasses whose
leaves are int, float, bool, str, None, Literal, or (nested) tuples of these; a field may also be
a union of dataclasses, or of an abstract one with subclasses; then the name of the class is stored
under the key ``class``.

    experiment = load("configs/sync_mnist.py:demo")
    experiment = override(experiment, {"train.batch_size": "8", "optim.clip_norm": "none"})
    same = from_dict(type(experiment), json.loads(json.dumps(to_dict(experiment))))

Every mistake in a key or a value raises `UserError` with the full key in the message.
"""

import ast
import dataclasses
import difflib
import hashlib
import importlib.util
import inspect
import json
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from rstg_jax.errors import UserError

T = TypeVar("T")
CLASS_KEY = "class"


def load(spec: str) -> Any:
    """Returns the configuration that ``FILE[:VARIANT]`` names.

    Args:
      spec: path of a Python file that defines ``get_config(variant) -> dataclass``, and
        optionally a colon and the variant; the file chooses the default one.

    Raises:
      UserError: no such file, or no such variant; the message lists the choices.
    """
    name, _, variant = spec.partition(":")
    path = Path(name)
    if not path.is_file():
        folder = path.parent if path.parent.name and path.parent.is_dir() else Path("configs")
        files = ", ".join(sorted(map(str, folder.glob("*.py")))) or "none here"
        raise UserError(f"no config file {name!r}; choose one of: {files}")
    module_spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"{name!r} is not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(f"{name!r} defines no get_config(variant)")
    return module.get_config(variant) if variant else module.get_config()


def choose(variants: Mapping[str, Callable[[], T]], variant: str) -> T:
    """Calls the maker of one named variant, or raises `UserError` listing them all."""
    if variant not in variants:
        raise UserError(f"no variant {variant!r}; choose one of: {', '.join(variants)}")
    return variants[variant]()


def override(config: T, changes: Mapping[str, str]) -> T:
    """Returns `config` with some leaves replaced, each given as text.

    Args:
      config: a frozen dataclass.
      changes: dotted key -> text. A tuple is written ``3,2,1`` or ``(3,2,1)``, no value ``none``;
        a field that is a union of dataclasses takes the name of the class (with its defaults).

    Raises:
      UserError: unknown key (names the nearest), wrong type (names key, value and type), or a
        combination that a dataclass itself refuses.
    """
    known = list(keys(config))
    for key in changes:
        if key not in known and not _resolves(config, key, changes):
            raise UserError(f"no config key {key!r}; the nearest is {nearest(key, known)!r}")
    return _override(config, dict(changes), "")


def keys(config: Any, prefix: str = "") -> Iterator[str]:
    """Yields the dotted keys of all fields, sections included."""
    for field in dataclasses.fields(config):
        yield prefix + field.name
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from keys(value, f"{prefix}{field.name}.")


def nearest(key: str, known: list[str]) -> str:
    """Returns the known key most like `key`, by its whole or by its last part."""

    def likeness(candidate: str) -> tuple[float, float]:
        whole = difflib.SequenceMatcher(None, key, candidate).ratio()
        last = difflib.SequenceMatcher(None, key.split(".")[-1], candidate.split(".")[-1]).ratio()
        return max(whole, last), whole

    return max(known, key=likeness)


def to_dict(config: Any) -> dict[str, Any]:
    """Returns the configuration as plain dicts, lists and scalars that JSON can hold."""
    hints = typing.get_type_hints(type(config))
    plain = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            tag = {CLASS_KEY: type(value).__name__} if len(_classes(hints[field.name])) > 1 else {}
            plain[field.name] = tag | to_dict(value)
        else:
            plain[field.name] = _plain(value)
    return plain


def from_dict(cls: type[T], plain: Mapping[str, Any], prefix: str = "") -> T:
    """Builds a configuration from `to_dict`'s output. Missing keys take the class's defaults."""
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name in plain:
        if name not in names and name != CLASS_KEY:
            raise UserError(
                f"no config key {prefix + name!r}; the nearest is {prefix + nearest(name, names)!r}"
            )
    values = {n: _check(plain[n], hints[n], prefix + n) for n in names if n in plain}
    return _construct(cls, values, prefix)


def config_hash(config: Any) -> str:
    """Returns 12 hexadecimal digits of the SHA-256 of the canonical JSON."""
    canonical = json.dumps(to_dict(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def diff(a: Any, b: Any) -> list[str]:
    """Returns one line a differing key, such as ``model.rstg.dim: 64 != 32``.

    Takes configurations, or what `to_dict` made of them.
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


def _resolves(config: Any, key: str, changes: Mapping[str, str]) -> bool:
    """Whether `key` lies in a section whose class another of the changes replaces."""
    known = set(keys(config))
    return any(key.startswith(section + ".") and section in known for section in changes)


def _override(config: Any, changes: Mapping[str, str], prefix: str) -> Any:
    """One `replace` a section, so that keys which only fit together can change together."""
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
            values[name] = _parse(text, hints[name], prefix + name)
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
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"config section {prefix.rstrip('.') or 'root'!r}: {error}") from error


def _construct(cls: type[T], values: dict[str, Any], prefix: str) -> T:
    try:
        return cls(**values)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"config section {prefix.rstrip('.') or 'root'!r}: {error}") from error


def _options(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation itself."""
    is_union = typing.get_origin(hint) in (Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def _classes(hint: Any) -> dict[str, type]:
    """The dataclasses that a field may hold, by name: those of a union, and all their subclasses.

    A field that is annotated with an abstract base takes any subclass that has been imported.
    """
    found: dict[str, type] = {}
    open_classes = [
        o for o in _options(hint) if isinstance(o, type) and dataclasses.is_dataclass(o)
    ]
    while open_classes:
        one = open_classes.pop(0)
        open_classes += one.__subclasses__()
        if not inspect.isabstract(one):
            found.setdefault(one.__name__, one)
    return found


def _wrong(key: str, value: Any, hint: Any) -> UserError:
    name = getattr(hint, "__name__", "") if isinstance(hint, type) else ""
    wanted = name or str(hint).replace("typing.", "")
    return UserError(f"config key {key!r}: {value!r} is not of type {wanted}")


def _parse(text: str, hint: Any, key: str) -> Any:
    """Turns text into a value of the annotated type."""
    options = _options(hint)
    if type(None) in options and text.lower() == "none":
        return None
    if text in _classes(hint):
        return _construct(_classes(hint)[text], {}, key + ".")
    for option in options:
        value = _parse_one(text, option, key)
        if value is not _NO:
            return value
    raise _wrong(key, text, hint)


_NO = object()  # "this text is not of that type", told apart from None and False


def _parse_one(text: str, hint: Any, key: str) -> Any:
    if hint is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), _NO)
    if hint in (int, float):
        try:
            return hint(text.replace("_", ""))
        except ValueError:
            return _NO
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
        hints = _element_hints(hint, len(parts))
        return _NO if hints is None else tuple(map(lambda p, h: _parse(p, h, key), parts, hints))
    return _NO


def _split(text: str) -> list[str]:
    """Splits ``(a, (b, c), d)`` at the commas of the outermost level."""
    text = text.strip()
    if text[:1] + text[-1:] in ("()", "[]") and not _closes_early(text):
        text = text[1:-1]
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text + ","):
        depth += (c in "([") - (c in ")]")
        if c == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    if depth:
        return [text]  # brackets that do not match are no list's
    parts = [part.strip("'\"") for part in parts]
    return parts[:-1] if parts[-1] == "" else parts


def _closes_early(text: str) -> bool:
    """Whether the first bracket closes before the end, as in ``(1,2),(3,4)``."""
    depth = 0
    for i, c in enumerate(text):
        depth += (c in "([") - (c in ")]")
        if depth == 0:
            return i < len(text) - 1
    return False


def _element_hints(hint: Any, length: int) -> list[Any] | None:
    args = typing.get_args(hint)
    if len(args) == 2 and args[1] is Ellipsis:
        return [args[0]] * length
    return list(args) if len(args) == length else None


def _check(value: Any, hint: Any, key: str) -> Any:
    """Turns a JSON value into a value of the annotated type: lists to tuples, dicts to classes."""
    for option in _options(hint):
        if option is type(None) and value is None:
            return None
        if option is float and type(value) in (int, float):
            return float(value)
        if (option in (int, bool, str) and type(value) is option) or option is Any:
            return value
        if typing.get_origin(option) is Literal and value in typing.get_args(option):
            return value
        if typing.get_origin(option) is tuple and isinstance(value, list | tuple):
            hints = _element_hints(option, len(value))
            if hints is not None:
                return tuple(map(lambda v, h: _check(v, h, key), value, hints))
    classes = _classes(hint)
    if isinstance(value, Mapping) and classes:
        name = value.get(CLASS_KEY, next(iter(classes)))
        if name not in classes:
            choices = ", ".join(classes)
            raise UserError(f"config key {key!r}: no class {name!r}; choose one of: {choices}")
        return from_dict(classes[name], value, key + ".")
    raise _wrong(key, value, hint)
