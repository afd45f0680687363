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
#: Folder of a file that was run -> the modules that its code imported from beside it.
_BESIDE: dict[Path, dict[str, ModuleType]] = {}


def run_file(path: Path, option: str = "--model") -> ModuleType:
    """Run a Python file of the user's, and return its module; nothing is written beside it.

    It may import what lies beside it. ``option`` is the one that named it.

    Raises:
        InputError: no such file, or it fails.
    """
    check_file(path, option)
    found = importlib.util.spec_from_file_location(PREFIX + path.stem, path)
    if found is None or found.loader is None:
        raise InputError(f"{path} is not a Python file; give path/to/file.py:factory")
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # dataclasses in the file look themselves up there
    with theirs(str(path)), beside(path):
        found.loader.exec_module(module)
    return module


@contextmanager
def beside(path: Path) -> Iterator[None]:
    """In the block, modules that lie beside ``path`` can be imported; installed ones go first.

    Of modules of one name beside two files, the code of each gets its own. Python writes no
    ``__pycache__`` there.
    """
    folder = path.resolve().parent
    for name, module in [pair for found in _BESIDE.values() for pair in found.items()]:
        if sys.modules.get(name) is module:
            del sys.modules[name]
    sys.modules.update(_BESIDE.setdefault(folder, {}))
    known, place = set(sys.modules), str(folder)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.append(place)
    try:
        yield
    finally:
        sys.path[:] = [entry for entry in sys.path if entry is not place]  # an equal one stays
        sys.dont_write_bytecode = before
        new = set(sys.modules) - known
        _BESIDE[folder] |= {name: sys.modules[name] for name in new if _lies_in(folder, name)}


def _lies_in(folder: Path, name: str) -> bool:
    """Whether a module is a file in a folder, or of a package in it."""
    top, module = folder / name.partition(".")[0], sys.modules[name]
    places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", ())]
    paths = [path for place in places for path in (Path(place), *Path(place).parents)]
    return top in paths or top.with_suffix(".py") in paths


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
        raise InputError(f"{what} failed{_told(_place(error), error)}") from error


def _place(error: Exception) -> str:
    """The last place of an error in the user's own code; if it is in none, in other code."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not Path(frame.filename).is_relative_to(PACKAGE)
    ]
    last = [frame for frame in frames if _is_own(frame)] or frames
    return f"{Path(last[-1].filename).name}:{last[-1].lineno}" if last else ""


def their_fault(error: BaseException) -> str | None:
    """One line on an error that code of the user's own raised; None where it is ours.

    What counts is the last place in a traceback that is neither in Python's own modules nor in
    an installed package other than this one.
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(PACKAGE):
            return None
        if _is_own(frame):
            return f"your code failed{_told(f'{path.name}:{frame.lineno}', error)}"
    return None


def _is_own(frame: traceback.FrameSummary) -> bool:
    """Whether a place is neither in Python's own modules nor in an installed package."""
    path = Path(frame.filename)
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return path.is_file() and not installed and not path.is_relative_to(STDLIB)


def _told(place: str, error: BaseException) -> str:
    at, there = (f" at {place}", " there") if place else ("", "")
    return f"{at}: {type(error).__name__}: {first_line(error)}; correct it{there}"
