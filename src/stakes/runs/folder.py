"""The folder of a run: it appears whole or not at all, and replaces only what a run wrote.

What is unfinished lies in one hidden folder beside OUT, ``.OUT.unfinished``: ``lock``, held while
a run is at work; ``state-*.pt``, what an interrupted run goes on from; ``new``, the result being
written; ``old``, the earlier result while it gives way, and ``copy``, the same where OUT cannot be
renamed. The next run of the same OUT tidies up what a kill has left there.
"""

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from stakes.errors import InputError
from stakes.files import (
    PRIVATE_FOLDER,
    hidden,
    locked,
    make_folder,
    ours,
    sync,
    trusted,
    write_bytes,
)
from stakes.manifest import MANIFEST, write_manifest
from stakes.runs.earlier import foreign_in, whole

STATES = "state-*.pt"
CANNOT_RENAME = {errno.EBUSY, errno.EXDEV, errno.EPERM, errno.EACCES}


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
    place = Place.of(out)
    place.try_to_write()
    if os.path.lexists(place.work):
        with place.held():
            pass
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
    return Place.of(out).work


def resumable(out: str | Path) -> bool:
    """Whether an interrupted run has left a state there to go on from."""
    return any(checkpoint_beside(out).glob(STATES))


@contextmanager
def claim(out: str | Path, overwrite: bool = True) -> Iterator["Place"]:
    """Hold ``out`` for one run within the block.

    Raises:
        InputError: see :func:`check_out`.
    """
    place = Place.of(out)
    with place.held():
        place.check(overwrite)
        yield place


@contextmanager
def new_folder(out: str | Path, overwrite: bool = True) -> Iterator[Path]:
    """Give a folder of the same name beside ``out``; on success it takes its place, else it goes.

    >>> out = Path(tempfile.mkdtemp()) / "run"
    >>> with new_folder(out) as folder:
    ...     _ = (folder / "row.json").write_text("{}")
    ...     folder.name, out.exists()
    ('run', False)
    >>> sorted(path.name for path in out.iterdir()), [path.name for path in out.parent.iterdir()]
    (['manifest.json', 'row.json'], ['run'])
    """
    with claim(out, overwrite) as place, place.writing(overwrite) as folder:
        yield folder


@dataclass(frozen=True)
class Place:
    """Where a run writes.

    Attributes:
        out: the folder that is to appear, links resolved.
        work: the hidden folder of what is unfinished; within ``out`` where that is a mount point,
            or nothing can be written beside it.
        name: of ``out`` as it was given, for messages.
    """

    out: Path
    work: Path
    name: str

    @classmethod
    def of(cls, given: str | Path) -> "Place":
        """The place that ``--out`` names.

        Raises:
            InputError: no name that a folder can have, a file, or somebody else's link.
        """
        try:
            if Path(given).is_symlink() and not trusted(os.lstat(given)):
                raise InputError(f"--out {given} is somebody else's link: give another folder")
            out = Path(given).resolve()
            with suppress(FileNotFoundError, NotADirectoryError):
                out.lstat()
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or "a link in a circle"
            raise InputError(f"--out {given}: {reason}; give another folder") from error
        if out.exists() and not out.is_dir():
            raise InputError(f"--out {given} is a file: give a folder that does not exist yet")
        if not out.name:
            raise InputError(f"--out {given} is the root of the file system: give another folder")
        within = out.is_dir() and (_stays(out) or not os.access(out.parent, os.W_OK))
        return cls(out, out / ".unfinished" if within else hidden(out, "unfinished"), str(given))

    def try_to_write(self) -> None:
        """Make a folder where the work is to be, and remove it again.

        Raises:
            InputError: that fails.
        """
        above = next(folder for folder in self.work.parents if folder.exists())
        try:
            Path(tempfile.mkdtemp(prefix=".stakes-", dir=above)).rmdir()
        except OSError as error:
            raise InputError(
                f"--out {self.name}: nothing can be written in {above} ({error.strerror}); give "
                "another folder"
            ) from error

    def check(self, overwrite: bool) -> None:
        """Refuse to replace what is in the folder now, unless it is an earlier result.

        Raises:
            InputError: it holds something else, or an earlier result that is to stay.
        """
        if self._entries() and not overwrite:
            raise InputError(
                f"--out {self.name} is not empty: give another folder, or add --overwrite"
            )
        foreign = foreign_in(self.out, self._entries())
        if foreign is not None:
            raise InputError(
                f"--out {self.name} holds {foreign}, which is no part of an earlier result: "
                "--overwrite would delete it; move it away, or give another folder"
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs out; put right what a killed one left; leave nothing but states.

        Raises:
            InputError: another run is at work there, or the hidden folder is not ours.
        """
        with ExitStack() as stack:
            self._lock(stack)
            self._recover()
            try:
                yield
            finally:
                self._tidy()

    @contextmanager
    def writing(self, overwrite: bool = True) -> Iterator[Path]:
        """Give an empty folder; on success it becomes ``out``, with a manifest, and on the disk.

        Raises:
            InputError: ``out`` meanwhile holds something that is to stay.
        """
        made = self.work / "new" / self.out.name
        made.mkdir(PRIVATE_FOLDER, parents=True)
        try:
            yield made
            write_manifest(made)
            inner = [path for path in made.rglob("*") if path.is_dir()]
            for folder in (*inner, made, made.parent, self.work):
                sync(folder)
            self.check(overwrite)
            self._put(made)
        finally:
            shutil.rmtree(self.work / "new", ignore_errors=True)

    def _put(self, made: Path) -> None:
        """Rename the new folder to its place, or where that cannot be, copy its files there."""
        old = self.work / "old"
        try:
            if self.work.parent == self.out:
                raise OSError(errno.EBUSY, "a folder that stays where it is")
            try:
                if self.out.exists():
                    self.out.rename(old)
                    sync(self.work)
                    sync(self.out.parent)
                made.rename(self.out)
            except BaseException:
                if old.exists() and not self.out.exists():
                    old.rename(self.out)
                raise
        except OSError as error:
            if error.errno not in CANNOT_RENAME:
                raise
            self._copy_in(made)
        sync(self.out.parent)
        shutil.rmtree(old, ignore_errors=True)

    def _copy_in(self, made: Path) -> None:
        """Copy the new files over the old ones, of which there is a copy until all is there."""
        _copy(self.out, self.work / "copying", self._files())
        (self.work / "copying").rename(self.work / "copy")
        sync(self.work)
        new = [path.relative_to(made) for path in made.rglob("*") if path.is_file()]
        for name in set(self._files()).difference(new):
            (self.out / name).unlink()
        _copy(made, self.out, sorted(new, key=lambda name: name == Path(MANIFEST)))
        (self.work / "copy").rename(self.work / "gone")

    def _recover(self) -> None:
        """Undo what was begun and not finished; the state of a run that has finished goes."""
        old, copy = self.work / "old", self.work / "copy"
        if old.exists() and not whole(self.out):
            if self._entries():
                raise InputError(
                    f"--out {self.name} is no whole result, and the earlier one lies in {old}: "
                    "move one of them away"
                )
            old.rename(self.out)  # which is empty, or not there
            sync(self.out.parent)
        if copy.exists():
            made = self.work / "new" / self.out.name
            as_it_was = whole(self.out)
            for name in (p.relative_to(made) for p in made.rglob("*") if p.is_file()):
                hidden(self.out / name, "unfinished").unlink(missing_ok=True)
                if not as_it_was:
                    (self.out / name).unlink(missing_ok=True)
            if not as_it_was:
                _copy(copy, self.out, [p.relative_to(copy) for p in copy.rglob("*") if p.is_file()])
        for done in ("new", "old", "copying", "copy", "gone"):
            shutil.rmtree(self.work / done, ignore_errors=True)
        for state in self.work.glob(STATES):
            if state == self._finished_state():
                state.unlink()

    def _finished_state(self) -> Path | None:
        """The state of the job whose result is there, whole."""
        try:
            row = json.loads((self.out / "row.json").read_bytes())
            return self.work / f"state-{row['job_digest'][:16]}.pt" if whole(self.out) else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def _lock(self, stack: ExitStack) -> None:
        """Take the lock, in the hidden folder, which another run may remove at any time."""
        while True:
            try:
                make_folder(self.work.parent)
                with suppress(FileExistsError):
                    self.work.mkdir(PRIVATE_FOLDER)
                if self.work.is_symlink() or not (self.work.is_dir() and ours(self.work.stat())):
                    raise InputError(
                        f"{self.work} is not a folder of yours: remove it, or give another --out"
                    )
                self.work.chmod(PRIVATE_FOLDER)
                stack.enter_context(locked(self.work / "lock"))
                return
            except FileNotFoundError:
                continue
            except BlockingIOError as error:
                raise InputError(
                    f"--out {self.name}: another run is at work there; wait for it, or give "
                    "another folder"
                ) from error
            except PermissionError as error:
                raise InputError(f"--out {self.name}: {error}; give another folder") from error

    def _tidy(self) -> None:
        """Remove all that is finished, and the hidden folder where nothing is left in it."""
        for name in ("new", "copying", "gone"):
            shutil.rmtree(self.work / name, ignore_errors=True)
        with suppress(OSError):
            if {path.name for path in self.work.iterdir()} <= {"lock"}:
                (self.work / "lock").unlink(missing_ok=True)
                self.work.rmdir()

    def _entries(self) -> list[Path]:
        """What is in the folder, but for what is unfinished, or belongs to a disk."""
        if not self.out.is_dir():
            return []
        within = self.work.parent == self.out
        passed = {self.work.name, "lost+found"} if within else set()
        return sorted(path for path in self.out.iterdir() if path.name not in passed)

    def _files(self) -> list[Path]:
        """The files in the folder, at any depth, by their names there."""
        found = [p for entry in self._entries() for p in (entry, *entry.rglob("*"))]
        return [path.relative_to(self.out) for path in found if path.is_file()]


def _copy(source: Path, target: Path, names: list[Path]) -> None:
    """Copy files, each in one step and to the disk."""
    make_folder(target, PRIVATE_FOLDER)
    for name in names:
        make_folder((target / name).parent, PRIVATE_FOLDER)
        write_bytes(target / name, (source / name).read_bytes())


def _stays(folder: Path) -> bool:
    """Whether a folder cannot be renamed, or should not, since it is mounted or we are in it."""
    with suppress(OSError):
        if os.path.ismount(folder) or Path.cwd().is_relative_to(folder):
            return True
        for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
            named = re.sub(rb"\\(\d{3})", lambda octal: bytes([int(octal[1], 8)]), line.split()[4])
            if named == os.fsencode(folder):
                return True
    return False
