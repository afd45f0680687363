"""What a killed run left half done, put right by the next one."""

import json
import shutil
from pathlib import Path

from stakes.errors import InputError
from stakes.files import hidden, sync
from stakes.runs.earlier import whole
from stakes.runs.out_folder import OutFolder
from stakes.runs.placing import copy_files

STATES = ("state-", "scored-")  # how the names of what a run resumes from begin; its job follows


def recover(place: OutFolder) -> None:
    """Undo what was begun and not finished; the state of a run that has finished goes."""
    old, copy = place.work / "old", place.work / "copy"
    if old.exists() and not whole(place.out):
        if place.entries():
            raise InputError(
                f"--out {place.name} is not a complete result, and the earlier one is in {old}: "
                "move one of them away"
            )
        old.rename(place.out)  # which is empty, or not there
        sync(place.out.parent)
    if copy.exists():
        made = place.work / "new" / place.out.name
        as_it_was = whole(place.out)
        for name in _files(made):
            hidden(place.out / name, "unfinished").unlink(missing_ok=True)
            if not as_it_was:
                (place.out / name).unlink(missing_ok=True)
        if not as_it_was:
            copy_files(copy, place.out, _files(copy))
    for done in ("new", "old", "copying", "copy", "gone"):
        shutil.rmtree(place.work / done, ignore_errors=True)
    job = _finished_job(place)
    for state in states(place.work):
        if job and state.name.startswith(tuple(kind + job for kind in STATES)):
            state.unlink()


def states(work: Path) -> list[Path]:
    """What interrupted runs can resume from, in the hidden folder."""
    return sorted(path for kind in STATES for path in work.glob(f"{kind}*"))


def _finished_job(place: OutFolder) -> str | None:
    """The job whose result is there, whole, as in the names of its files."""
    try:
        row = json.loads((place.out / "row.json").read_bytes())
        return str(row["job_digest"][:16]) if whole(place.out) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _files(folder: Path) -> list[Path]:
    """The files in a folder, at any depth, by their names there."""
    return [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
