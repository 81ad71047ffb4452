"""The one exception that users are meant to see."""


class UserError(Exception):
    """A mistake the user can fix, told in one line that names the key or file and what to do."""
