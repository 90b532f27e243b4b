"""Patterns that choose weights: regular expressions, found anywhere in a weight's path.

A path is that of the checkpoint, such as ``params/rstg_final/time/lstm/bias``.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from rstg_jax.errors import UserError


def check(patterns: Iterable[str]) -> None:
    """Raises `UserError` for a pattern that is no regular expression."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"{pattern!r} is no regular expression: {error}") from error


def matching(patterns: Sequence[str], paths: Iterable[str]) -> list[str]:
    """The paths in which any of the patterns is found."""
    return [path for path in paths if any(re.search(pattern, path) for pattern in patterns)]


def first_match(patterns: Sequence[str], params: Any, key: str) -> Any:
    """Maps each parameter to the number of the first pattern in its path, -1 if there is none.

    Raises:
      UserError: a pattern matches no parameter at all; `key` names where it was given.
    """

    def path_of(path: tuple[Any, ...]) -> str:
        return f"params/{jax.tree_util.keystr(path, simple=True, separator='/')}"

    paths = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern in patterns:
        if not matching([pattern], paths):
            parts = sorted({"/".join(path.split("/")[:2]) for path in paths})
            raise UserError(
                f"config key {key!r}: {pattern!r} is found in the path of no weight; they begin "
                f"with {', '.join(parts)}"
            )

    def number(path: tuple[Any, ...], _: Any) -> int:
        name = path_of(path)
        found = (n for n, pattern in enumerate(patterns) if re.search(pattern, name))
        return next(found, -1)

    return jax.tree_util.tree_map_with_path(number, params)
