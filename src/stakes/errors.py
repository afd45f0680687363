"""The one error that means: the input is wrong, and this is what to do about it."""

import difflib
import operator
from collections.abc import Iterable
from typing import Any


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


def shortened(text: object, most: int = 60) -> str:
    """A text that a message quotes, its middle left out where it is long.

    >>> shortened("0123456789" * 10, 12)
    '01234 ... 89'
    """
    words = str(text)
    if len(words) <= most:
        return words
    start = (most - 5) * 3 // 4
    return f"{words[:start]} ... {words[len(words) - (most - 5 - start) :]}"


def quoted(value: object) -> str:
    """A value as a message quotes it, whatever it is.

    >>> quoted("cat"), quoted(10**5000)
    ("'cat'", 'a huge number')
    """
    try:
        return shortened(" ".join(repr(value).split()))
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a huge number"
    except Exception:  # an object of the user's own may fail at this too
        return f"a {type(value).__name__}"


def whole_number(value: Any) -> int | None:
    """A whole number of any library as one of Python; None where the value is none.

    >>> whole_number(3), whole_number(True), whole_number("3")
    (3, None, None)
    """
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def check_seed(seed: Any, name: str = "seed") -> int:
    """What seeds a generator, as a number of Python.

    Raises:
        InputError: it is no whole number from 0 to 2^63 - 2; ``name`` is what it is called.

    >>> check_seed(0)
    0
    """
    found = whole_number(seed)
    if found is None or not 0 <= found < 2**63 - 1:
        raise InputError(f"{name} {quoted(seed)}: give a whole number from 0 to 2^63 - 2")
    return found


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


#: What other programs call an option -> what it is called here.
MEANT = {
    "epochs": ("max-steps", "max-epochs"),
    "iterations": ("max-steps",),
    "steps": ("max-steps",),
    "learning-rate": ("lr",),
    "batch-size": ("forget-batch", "probe-batch", "retain-batch"),
    "dataset": ("data",),
    "data-dir": ("data", "data-root"),
    "checkpoint": ("weights",),
    "ckpt": ("weights",),
    "pretrained": ("weights",),
    "arch": ("model",),
    "network": ("model",),
    "gpu": ("device",),
    "cuda": ("device",),
    "output": ("out",),
    "output-dir": ("out",),
    "force": ("overwrite",),
    "names": ("classes",),
    "labels": ("classes",),
    "img-size": ("input-size",),
    "image-size": ("input-size",),
}


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message: the known names nearest to ``name`` in spelling or meaning, or some.

    >>> nearest("structgard", ["structguard", "adv"])
    '; did you mean structguard?'
    >>> nearest("epochs", ["eps", "max_steps"])
    '; did you mean max_steps?'
    >>> nearest("quiet", ["out", "seed"])
    '; choose one of out, seed'
    """
    plain = {_plain(word): word for word in known}
    asked = _plain(name)
    near = [word for word in MEANT.get(asked, ()) if word in plain]
    near = near or difflib.get_close_matches(asked, plain, 1, 0.74)
    near = near or [word for word in plain if asked in word.split("-")][:3]
    if near:
        return f"; did you mean {' or '.join(plain[word] for word in near)}?"
    return f"; choose one of {some(plain.values(), 12)}"


def _plain(name: str) -> str:
    return name.lower().strip("-_ ").replace("_", "-")
