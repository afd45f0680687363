"""A finished result put in its place: renamed there, or copied where that cannot be."""

import errno
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stakes.files import PRIVATE_FOLDER, make_folder, sync, write_bytes
from stakes.manifest import MANIFEST, write_manifest
from stakes.runs.out_folder import OutFolder

CANNOT_RENAME = {errno.EBUSY, errno.EXDEV, errno.EPERM, errno.EACCES}


@contextmanager
def writing(place: OutFolder, overwrite: bool = True) -> Iterator[Path]:
    """Give an empty folder; on success it becomes ``out``, with a manifest, and on the disk.

    Raises:
        InputError: ``out`` meanwhile holds something that is to stay.
    """
    made = place.work / "new" / place.out.name
    made.mkdir(PRIVATE_FOLDER, parents=True)
    try:
        yield made
        write_manifest(made)
        inner = [path for path in made.rglob("*") if path.is_dir()]
        for folder in (*inner, made, made.parent, place.work):
            sync(folder)
        place.check(overwrite)
        _put(place, made)
    finally:
        shutil.rmtree(place.work / "new", ignore_errors=True)


def _put(place: OutFolder, made: Path) -> None:
    """Rename the new folder to its place, or where that cannot be, copy its files there."""
    old = place.work / "old"
    try:
        if place.work.parent == place.out:
            raise OSError(errno.EBUSY, "a folder that stays where it is")
        try:
            if place.out.exists():
                place.out.rename(old)
                sync(place.work)
                sync(place.out.parent)
            made.rename(place.out)
        except BaseException:
            if old.exists() and not place.out.exists():
                old.rename(place.out)
            raise
    except OSError as error:
        if error.errno not in CANNOT_RENAME:
            raise
        _copy_in(place, made)
    sync(place.out.parent)
    shutil.rmtree(old, ignore_errors=True)


def _copy_in(place: OutFolder, made: Path) -> None:
    """Copy the new files over the old ones, of which there is a copy until all is there."""
    copy_files(place.out, place.work / "copying", place.files())
    (place.work / "copying").rename(place.work / "copy")
    sync(place.work)
    new = [path.relative_to(made) for path in made.rglob("*") if path.is_file()]
    for name in set(place.files()).difference(new):
        (place.out / name).unlink()
    copy_files(made, place.out, sorted(new, key=lambda name: name == Path(MANIFEST)))
    (place.work / "copy").rename(place.work / "gone")


def copy_files(source: Path, target: Path, names: Sequence[Path]) -> None:
    """Copy files, each in one step and to the disk."""
    make_folder(target, PRIVATE_FOLDER)
    for name in names:
        make_folder((target / name).parent, PRIVATE_FOLDER)
        write_bytes(target / name, (source / name).read_bytes())
