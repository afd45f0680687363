"""The one error that means: the input is wrong, and this is what to do about it."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Raised for input that cannot be used, before any long work begins.

    The message is one line for a person: what was wrong, where, and what to do.
    """


def some(names: Iterable[object], most: int = 5) -> str:
    """The first few names, for a message, and how many more there are.

    >>> some(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    listed = [str(name) for name in names]
    rest = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {rest} more" if rest > 0 else "")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message: the known name nearest to ``name``, or all of them.

    >>> nearest("structgard", ["structguard", "adv"])
    '; did you mean structguard?'
    """
    near = difflib.get_close_matches(name, list(known), 1, 0.4)
    return f"; did you mean {near[0]}?" if near else f"; choose one of {', '.join(known)}"
