"""Types of options: how a word of a command line, or of a file of options, becomes a value."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter, Token

from stakes.errors import shortened
from stakes.texts import expanded

Converter = Callable[[Any, Sequence[Token]], Any]

Switch = Annotated[bool, Parameter(negative="", show_default=False)]
"""An option that is off unless it is given: it needs no --no- form."""


def number(kind: type, wanted: str) -> Converter:
    """What reads a whole number (``int``) or a number (``float``); ``wanted`` says which."""

    def read(hint: Any, tokens: Sequence[Token]) -> int | float:
        text = tokens[0].value
        value = _whole(text) if kind is int else _number(text)
        if value is None:
            raise ValueError(f"{said(tokens[0])}: give {wanted}")
        return value

    return read


def said(token: Token) -> str:
    """An option as it was given: ``--seed 1.5``, or ``seed = 1.5 in FILE``."""
    keyword, value = str(token.keyword or ""), shortened(token.value)
    if token.source in ("", "cli"):
        return f"{keyword} {value}"
    return f"{keyword.strip('[]')} = {value} in {token.source}"


def _whole(text: str) -> int | None:
    """A whole number; also one that is written with a point or a power, such as ``1e3``.

    >>> _whole("30"), _whole("1e3"), _whole("2.5"), _whole("inf")
    (30, 1000, None, None)
    """
    try:
        return int(text)
    except ValueError:
        value = _number(text)
    return int(value) if value is not None and math.isfinite(value) and value % 1 == 0 else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _place(hint: Any, tokens: Sequence[Token]) -> Path:
    if not tokens[0].value.strip():
        raise ValueError(f"{said(tokens[0])}: give a path")
    return expanded(tokens[0].value)


def _text(hint: Any, tokens: Sequence[Token]) -> str:
    return tokens[0].value


Text = Annotated[str, Parameter(converter=_text)]
"""A word as it stands, also where it looks like a number."""

Whole = Annotated[int, Parameter(converter=number(int, "a whole number"))]
"""A whole number: 2.5 is none."""

Number = Annotated[float, Parameter(converter=number(float, "a number"))]
"""A number."""

Place = Annotated[Path, Parameter(converter=_place)]
"""A path; ``~`` is one's home, also where the shell leaves it."""


def _group(title: str, place: int) -> Parameter:
    return Parameter(group=Group(title, sort_key=place))


# Where --help lists an option.
TO_FORGET = _group("What to forget, and how", 1)
NETWORK = _group("Network", 2)
READING = _group("Preprocessing: how an image file becomes the network's input", 3)
EVIDENCE = _group("Evidence", 4)
TRAINING = _group("Training data", 4)
OUTPUT = _group("Output", 5)
MACHINE = _group("Machine", 6)
