"""What the header of a video may claim, so that a small file cannot take the machine's memory."""

from rstg_jax.errors import UserError

MAX_PIXELS = 1 << 26  # of a frame, such as 8192x8192
MAX_FRAMES = 1 << 21  # 19 hours with 30 frames per second


def check_pixels(width: int, height: int) -> None:
    """Raises `UserError` for frames that would take too much memory."""
    if width * height > MAX_PIXELS:
        raise UserError(f"has frames of {width}x{height} pixels, too many")


def check_frames(number: int) -> None:
    """Raises `UserError` for videos without a frame, or with more than a video can have."""
    if not number:
        raise UserError("holds no frame")
    if number > MAX_FRAMES:
        raise UserError(f"has {number:,} frames, more than {MAX_FRAMES:,}: cut it up")
