"""The errors that the core raises, by who can fix the problem."""


class InputError(Exception):
    """The input or the parameters are wrong, and the caller can correct them.

    The message is one line: where, what was found, what was expected, what to do.
    """


class DamageError(Exception):
    """Stored data differs from what its receipt or manifest records."""


class RunError(Exception):
    """Something failed while running; the message is one line that says what."""
