"""Turns the errors of decoders into one-line messages."""

import contextlib
from collections.abc import Iterator

from rstg_jax.errors import UserError


@contextlib.contextmanager
def reading(message: str = "cannot be read as a video") -> Iterator[None]:
    """Reports any error of its body as a `UserError`.

    The body must be a call of a decoder and no more: the bytes of a damaged file can make FFmpeg
    and Pillow raise nearly every exception, from `struct.error` to `MemoryError`.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{message}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """Describes an error in a line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
