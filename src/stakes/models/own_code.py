"""Code of the user's own: a file that is run, and what goes wrong in it."""

import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from stakes.errors import InputError, first_line
from stakes.texts import check_file

PACKAGE = Path(__file__).resolve().parents[1]
PREFIX = "stakes_own_"  #: of the modules that files become: their names are nobody else's
STDLIB = Path(sysconfig.get_paths()["stdlib"])


def run_file(path: Path, option: str = "--model") -> ModuleType:
    """Run a Python file of the user's, and return its module; nothing is written beside it.

    ``option`` is the one that named it.

    Raises:
        InputError: no such file, or it fails.
    """
    check_file(path, option)
    found = importlib.util.spec_from_file_location(PREFIX + path.stem, path)
    if found is None or found.loader is None:
        raise InputError(f"{path} is not a Python file; give path/to/file.py:factory")
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # dataclasses in the file look themselves up there
    with theirs(str(path)), _without_byte_code():
        found.loader.exec_module(module)
    return module


@contextmanager
def _without_byte_code() -> Iterator[None]:
    """Python writes no ``__pycache__`` beside files that are imported in the block."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


@contextmanager
def theirs(what: str) -> Iterator[None]:
    """Run code of the user's own: whatever it raises, and that it exits, is one line.

    Raises:
        InputError: it failed; with its file and line.
    """
    try:
        yield
    except InputError:
        raise
    except SystemExit as error:
        raise InputError(f"{what} ended the program (exit {error.code}); take that out") from error
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        if isinstance(error, SyntaxError) and error.filename:
            place = f"{Path(error.filename).name}:{error.lineno}"
        raise InputError(f"{what} failed at {_told(place, error)}") from error


def their_fault(error: BaseException) -> str | None:
    """One line on an error that code of the user's own raised; None where it is ours.

    What counts is the last place in a traceback that is neither in Python's own modules nor in
    an installed package other than this one.
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(PACKAGE):
            return None
        installed = {"site-packages", "dist-packages"} & set(path.parts)
        if path.is_file() and not installed and not path.is_relative_to(STDLIB):
            return f"your code failed at {_told(f'{path.name}:{frame.lineno}', error)}"
    return None


def _told(place: str, error: BaseException) -> str:
    return f"{place}: {type(error).__name__}: {first_line(error)}; correct it there"
