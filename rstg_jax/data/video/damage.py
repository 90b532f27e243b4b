"""Turns the errors of decoders into one-line messages."""

import contextlib

from rstg_jax.errors import reason, translated


def reading(
    message: str = "cannot be read as a video",
) -> contextlib.AbstractContextManager[None]:
    """Reports any error of its body, a call of a decoder and no more, as a `UserError`."""
    return translated(lambda error: f"{message}: {reason(error)}")
