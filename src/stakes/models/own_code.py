"""Code of the user's own: a file that is run, and what goes wrong in it."""

import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from stakes.errors import InputError, first_line
from stakes.texts import check_file


def run_file(path: Path, option: str = "--model") -> ModuleType:
    """Run a Python file of the user's, and return its module.

    ``option`` is the one that named it.

    Raises:
        InputError: no such file, or it fails.
    """
    check_file(path, option)
    found = importlib.util.spec_from_file_location(f"stakes_own_{path.stem}", path)
    if found is None or found.loader is None:
        raise InputError(f"{path} is not a Python file; give path/to/file.py:factory")
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # dataclasses in the file look themselves up there
    with theirs(str(path)):
        found.loader.exec_module(module)
    return module


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
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise InputError(
            f"{what} failed at {Path(place.filename).name}:{place.lineno}: "
            f"{type(error).__name__}: {first_line(error)}; correct it there"
        ) from error
