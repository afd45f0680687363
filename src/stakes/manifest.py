"""The manifest of a run folder: the SHA-256 of every file in it, so that a change is noticed."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from stakes.errors import InputError, some
from stakes.files import file_digest, write_text

MANIFEST, FORMAT = "manifest.json", 1


def write_manifest(folder: Path) -> None:
    """Write ``manifest.json``: the SHA-256 of every other file in the folder, at any depth."""
    files = {
        file.relative_to(folder).as_posix(): file_digest(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file != folder / MANIFEST
    }
    _write(folder, files)


def _write(folder: Path, files: Mapping[str, str]) -> None:
    text = json.dumps({"format": FORMAT, "files": files}, indent=1)
    write_text(folder / MANIFEST, text + "\n")


def renew(file: Path) -> None:
    """Note that a file of a run folder was written anew, where its manifest lists it."""
    files = read_manifest(file.parent)
    if files is not None and file.name in files:
        files[file.name] = file_digest(file)
        _write(file.parent, files)


def read_manifest(folder: Path) -> dict[str, str] | None:
    """Name -> SHA-256 of the files of a run folder; None where an older version wrote it.

    Raises:
        InputError: the manifest is damaged.
    """
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_bytes())
        format_, files = found.pop("format"), found.pop("files")
        whole = not found and format_ == FORMAT and bool(files)
        whole = whole and all(isinstance(value, str) for value in files.values())
        whole = whole and not any(
            Path(name).is_absolute() or ".." in Path(name).parts for name in files
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, TypeError, KeyError, RecursionError):
        whole = False
    if not whole:
        raise InputError(f"{path} is damaged: restore the folder from a copy, or run it again")
    return dict(files)


def check_manifest(folder: Path, *, absent: Collection[str] = ()) -> bool:
    """Compare every file of a run folder with its manifest.

    Args:
        folder: that a run wrote.
        absent: names of files that may be missing, such as those that show images.

    Returns:
        Whether there is a manifest: an older version wrote none, and nothing is known.

    Raises:
        InputError: a file is missing or is not the one that the run wrote.
    """
    files = read_manifest(folder)
    if files is None:
        return False
    wrong = []
    for name, digest in files.items():
        if not (folder / name).is_file():  # nor a FIFO, which would never end
            wrong += [] if name in absent else [f"{name} (missing)"]
        elif file_digest(folder / name) != digest:
            wrong.append(name)
    if wrong:
        raise InputError(
            f"{folder} was changed after the run: {some(wrong)} not as in {MANIFEST}; restore "
            "the folder from a copy, or run it again"
        )
    return True
