"""The exception for mistakes that the user can fix."""


class UserError(ValueError):
    """Raised for invalid input; the message is one line that says how to fix it."""
