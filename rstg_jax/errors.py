"""The exception for mistakes that the user can fix, and how those of other code become it."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

MOST_NAMED = 8  # of the things that a message lists
MOST_QUOTED = 80  # characters of a text in a message


class UserError(ValueError):
    """Raised for invalid input; the message is one line that says how to fix it."""


def named(things: Sequence[str], separator: str = "; ", most: int = MOST_NAMED) -> str:
    """Lists things in a message: the first of them, and how many there are besides."""
    more = [f"and {len(things) - most} more"] if len(things) > most else []
    return separator.join([*things[:most], *more])


def quoted(text: str) -> str:
    """Quotes a text in a message; of a long one the beginning."""
    return repr(text) if len(text) <= MOST_QUOTED else f"{text[:MOST_QUOTED]!r}..."


@contextlib.contextmanager
def translated(describe: Callable[[Exception], str]) -> Iterator[None]:
    """Reports any exception of its body as a `UserError`, with the message that `describe` makes.

    The body must be a call of a reader and no more: the bytes of a damaged file can make FFmpeg,
    Pillow, TFDS and Orbax raise nearly every exception, from `struct.error` to `MemoryError`.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(describe(error)) from error


def first_line(error: BaseException) -> str:
    """The first line of what an error says, with its type if that is nothing, or a key alone."""
    text = str(error).strip()
    if isinstance(error, KeyError):
        text = f"{type(error).__name__}: {text}"
    return (text or type(error).__name__).splitlines()[0]


def reason(error: Exception) -> str:
    """Describes an error in a line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
