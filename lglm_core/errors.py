"""What goes wrong, told apart by who can mend it."""


class InputError(Exception):
    """The input or the options are at fault; the caller can mend them.

    The message is one line: where, what was found, what was expected, what to do.
    """


class DamageError(Exception):
    """Stored data is not what its receipt or manifest says."""


class RunError(Exception):
    """Something failed while running; the message is its one clear line."""
