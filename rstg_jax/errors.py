"""The one exception for mistakes that the user can mend."""


class UserError(ValueError):
    """Bad input: the message is one line that names the file, key or value and what to do."""
