"""Limits on what files may claim: a small one cannot take the memory of the machine.

They belong to the machine, not to an experiment, so they are no keys of a config. A module that a
command imports can raise them, say roomy.py with `limits.PIXELS = 1 << 28` after
`from rstg_jax import limits`:

    python -m rstg_jax.predict --import=roomy --workdir=DIR VIDEO
"""

from rstg_jax.errors import UserError

PIXELS = 1 << 26  # of a frame, such as 8192x8192
ASPECT = 20  # of a frame; the area that several crops cover grows with it
FRAMES = 1 << 21  # of a video: 19 hours with 30 frames per second
WHOLE_FRAMES = 1024  # of a video that a model sees whole; its memory grows with them
IDX_BYTES = 1 << 29  # of an unpacked IDX file: 11 times MNIST
TF_FILES = 1 << 16  # of a TensorFlow checkpoint
TF_NAME = 1 << 12  # bytes of the name of a variable in it
TF_ARRAY = 1 << 48  # elements of a variable in it


def check_pixels(width: int, height: int) -> None:
    """Raises `UserError` for frames that would take too much memory."""
    if width * height > PIXELS:
        raise UserError(f"has frames of {width}x{height} pixels, too many")


def check_aspect(width: int, height: int) -> None:
    """Raises `UserError` for frames so narrow that crops of them would take too much memory."""
    if max(width, height) > ASPECT * min(width, height):
        raise UserError(f"has frames of {width}x{height} pixels, too narrow")


def check_frames(number: int) -> None:
    """Raises `UserError` for videos without a frame, or with more than a video can have."""
    if not number:
        raise UserError("holds no frame")
    if number > FRAMES:
        raise UserError(f"has {number:,} frames, more than {FRAMES:,}: cut it up")
