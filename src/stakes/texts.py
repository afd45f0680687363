"""Paths and texts that people give: read whole, in bounds, and only where they are plain files."""

import codecs
import sys
import unicodedata
from pathlib import Path

from stakes.errors import InputError, quoted

MOST_BYTES = 64 * 2**20
"""No list of names, table, card or configuration is longer."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def expanded(path: str | Path) -> Path:
    """The path, with ``~`` as the home of its owner.

    Raises:
        InputError: there is no such user, or a path that cannot be.
    """
    if not isinstance(path, str | Path):
        raise InputError(f"{quoted(path)} is not a path; give a text or a Path")
    if "\0" in str(path):
        raise InputError(f"{str(path)!r}: a path has no zero bytes; check it")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path}: there is no such home folder; give the full path") from error


def check_file(path: Path, what: str) -> None:
    """Refuse what is no plain file, before it is opened: a pipe would be waited for without end.

    Args:
        path: the file, or a link to it.
        what: what it is to be, such as ``"--classes"``; begins the message.

    Raises:
        InputError: no such file, a folder, or a pipe, socket or device.
    """
    try:
        if path.is_file():
            return
        there = path.exists()
    except (OSError, ValueError) as error:  # a loop of links, a name too long
        raise InputError(f"{what} {path}: {_reason(error)}; check the path") from error
    if not there:
        raise InputError(f"{what} {path}: no such file; check the path")
    kind = "a folder; name the file in it" if path.is_dir() else "a pipe or device; give a file"
    raise InputError(f"{what} {path} is {kind}")


def read_text(path: Path, what: str) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Raises:
        InputError: as :func:`check_file`; or it cannot be read, is too long, or is no such text.
    """
    check_file(path, what)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(
                f"{what} {path}: more than {MOST_BYTES >> 20} MiB is too large for a list; check it"
            )
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{what} {path}: {_reason(error)}; check its permissions") from error
    encoding = next((name for mark, name in _MARKS if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{what} {path} line {line}: no text in UTF-8; save it as UTF-8"
        ) from error
    if "\0" in text:
        raise InputError(f"{what} {path} is not text; save it as UTF-8")
    return text


def one_form(name: str) -> str:
    r"""A name in one Unicode form: macOS and Linux write the same accent in two ways.

    >>> one_form("e\N{COMBINING ACUTE ACCENT}") == "\N{LATIN SMALL LETTER E WITH ACUTE}"
    True
    """
    return unicodedata.normalize("NFC", name)


def printable(text: str) -> str:
    r"""A text for a terminal: without control characters, escapes and changes of direction.

    >>> printable("a\x1b[31mb\N{RIGHT-TO-LEFT OVERRIDE}c")
    'a?[31mb?c'
    """
    return "".join("?" if unicodedata.category(c) in ("Cc", "Cf", "Cs") else c for c in text)


def say(text: str) -> None:
    """Print one line on standard error, whatever the names in it hold."""
    print(printable(text), file=sys.stderr)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
