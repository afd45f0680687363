"""The one error that means: the input is wrong, and this is what to do about it."""


class InputError(ValueError):
    """Raised for input that cannot be used, before any long work begins.

    The message is one line for a person: what was wrong, where, and what to do.
    """
