"""Where a run writes: what ``--out`` names, and whether a result may appear there."""

import os
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stakes.errors import InputError
from stakes.files import hidden, trusted
from stakes.runs.earlier import foreign_in


@dataclass(frozen=True)
class OutFolder:
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
    def of(cls, given: str | Path) -> "OutFolder":
        """The place that ``--out`` names.

        Raises:
            InputError: no name that a folder can have, a file, or somebody else's link.
        """
        try:
            if Path(given).is_symlink() and not trusted(os.lstat(given)):
                raise InputError(
                    f"--out {given} is a link that belongs to another user: give another folder"
                )
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
        foreign = foreign_in(self.out, self.entries())
        if self.entries() and not overwrite:
            way_out = ", or add --overwrite" if foreign is None else ""
            raise InputError(f"--out {self.name} is not empty: give another folder{way_out}")
        if foreign is not None:
            raise InputError(
                f"--out {self.name} holds {foreign}, which is not part of an earlier result: "
                "--overwrite would delete it; move it away, or give another folder"
            )

    def entries(self) -> list[Path]:
        """What is in the folder, but for what is unfinished, or belongs to a disk."""
        if not self.out.is_dir():
            return []
        within = self.work.parent == self.out
        passed = {self.work.name, "lost+found"} if within else set()
        return sorted(path for path in self.out.iterdir() if path.name not in passed)

    def files(self) -> list[Path]:
        """The files in the folder, at any depth, by their names there."""
        found = [p for entry in self.entries() for p in (entry, *entry.rglob("*"))]
        return [path.relative_to(self.out) for path in found if path.is_file()]


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
