"""The folder of a run: it appears whole or not at all, and replaces only what a run wrote.

What is unfinished lies in one hidden folder beside OUT, ``.OUT.unfinished``: ``lock``, held while
a run is at work; ``state-*.pt`` and ``scored-*``, from which an interrupted run resumes; ``new``,
the result being written; ``old``, the earlier result while it gives way, and ``copy``, the same
where OUT cannot be renamed. The next run of the same OUT tidies up what a kill has left there.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from stakes.errors import InputError
from stakes.files import PRIVATE_FOLDER, locked, make_folder, ours
from stakes.runs.out_folder import OutFolder
from stakes.runs.placing import writing
from stakes.runs.recovery import recover, states


def check_out(out: str | Path, overwrite: bool) -> None:
    """Refuse an output folder that cannot be made, or with something in it that is to stay.

    What a killed run left half done is put right first: where it was about to replace an earlier
    result, that is back in its place.

    Args:
        out: the folder.
        overwrite: whether an earlier result in it may be replaced.

    Raises:
        InputError: ``out`` is a file, cannot be written, another run writes it, or it is not empty
            and not to be replaced.
    """
    place = OutFolder.of(out)
    place.try_to_write()
    if os.path.lexists(place.work):
        with _held(place):
            pass
    place.check(overwrite)


def check_free(out: str | Path, overwrite: bool) -> None:
    """As :func:`check_out`, but what a killed run left there stays as it is.

    Raises:
        InputError: as there, but for another run at work.
    """
    place = OutFolder.of(out)
    place.try_to_write()
    place.check(overwrite)


def check_apart(out: str | Path, *sources: str | Path | None) -> None:
    """Refuse an output folder within a folder of images: the next run would read it as data.

    Args:
        out: the folder.
        sources: what images are taken from; what is no folder is passed over.

    Raises:
        InputError: it lies in one of them.
    """
    for source in sources:
        folder = Path(source or "").expanduser()
        if source and folder.is_dir() and Path(out).resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"--out {out} lies in {source}, which images are read from: give a folder "
                "outside it"
            )


def checkpoint_beside(out: str | Path) -> Path:
    """The folder where a run that is to write ``out`` keeps its state.

    >>> checkpoint_beside("/runs/one").as_posix()
    '/runs/.one.unfinished'
    """
    return OutFolder.of(out).work


def resumable(out: str | Path) -> bool:
    """Whether an interrupted run has left a state there to go on from."""
    return bool(states(checkpoint_beside(out)))


@contextmanager
def claim(out: str | Path, overwrite: bool = True) -> Iterator[OutFolder]:
    """Hold ``out`` for one run within the block.

    Raises:
        InputError: see :func:`check_out`.
    """
    place = OutFolder.of(out)
    with _held(place):
        place.check(overwrite)
        yield place


@contextmanager
def new_folder(out: str | Path, overwrite: bool = True) -> Iterator[Path]:
    """Give a folder of the same name beside ``out``; on success it takes its place, else it goes.

    >>> import tempfile
    >>> out = Path(tempfile.mkdtemp()) / "run"
    >>> with new_folder(out) as folder:
    ...     _ = (folder / "row.json").write_text("{}")
    ...     folder.name, out.exists()
    ('run', False)
    >>> sorted(path.name for path in out.iterdir()), [path.name for path in out.parent.iterdir()]
    (['manifest.json', 'row.json'], ['run'])
    """
    with claim(out, overwrite) as place, writing(place, overwrite) as folder:
        yield folder


@contextmanager
def _held(place: OutFolder) -> Iterator[None]:
    """Keep other runs out; put right what a killed one left; leave nothing but states.

    Raises:
        InputError: another run is at work there, or the hidden folder is not ours.
    """
    with ExitStack() as stack:
        _lock(place, stack)
        recover(place)
        try:
            yield
        finally:
            _tidy(place)


def _lock(place: OutFolder, stack: ExitStack) -> None:
    """Take the lock, in the hidden folder, which another run may remove at any time."""
    while True:
        try:
            make_folder(place.work.parent)
            with suppress(FileExistsError):
                place.work.mkdir(PRIVATE_FOLDER)
            if place.work.is_symlink() or not (place.work.is_dir() and ours(place.work.stat())):
                raise InputError(
                    f"{place.work} is not a folder of your own: remove it, or give another --out"
                )
            place.work.chmod(PRIVATE_FOLDER)
            stack.enter_context(locked(place.work / "lock"))
            return
        except FileNotFoundError:
            continue
        except BlockingIOError as error:
            raise InputError(
                f"--out {place.name}: another run is writing there; wait for it, or give "
                "another folder"
            ) from error
        except PermissionError as error:
            raise InputError(f"--out {place.name}: {error}; give another folder") from error


def _tidy(place: OutFolder) -> None:
    """Remove all that is finished, and the hidden folder where nothing is left in it."""
    for name in ("new", "copying", "gone"):
        shutil.rmtree(place.work / name, ignore_errors=True)
    with suppress(OSError):
        if {path.name for path in place.work.iterdir()} <= {"lock"}:
            (place.work / "lock").unlink(missing_ok=True)
            place.work.rmdir()
