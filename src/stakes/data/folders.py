"""Folders of images: what lies in them, which layout they have, and which class a name means."""

import difflib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from stakes.errors import InputError, some
from stakes.texts import one_form

TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")  # the first there is the test set
SUFFIXES = tuple(
    f".{end}"
    for end in "png jpg jpeg jfif bmp gif webp tif tiff ppm pgm pbm avif".split()  # noqa: SIM905
)


def is_image(path: str) -> bool:
    """Whether a file is taken for an image, by the end of its name.

    >>> is_image("cat.JPG"), is_image("notes.txt")
    (True, False)
    """
    return path.lower().endswith(SUFFIXES)


def entries(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """The visible entries of a folder, by name; InputError where it cannot be listed."""
    try:
        with os.scandir(os.fspath(folder)) as found:
            visible = [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be listed ({error.strerror}); check its permissions"
        ) from error
    return sorted(visible, key=lambda entry: entry.name)


def subfolders(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Name -> path of the visible subfolders (links to folders included), by name."""
    return {entry.name: entry.path for entry in entries(folder) if leads_to(entry.is_dir)}


def leads_to(kind: Callable[[], bool]) -> bool:
    """Whether an entry, its links followed, is of a kind; a link in a circle is of none."""
    try:
        return kind()
    except OSError:
        return False


def files_below(folder: str) -> list[str]:
    """Paths of all visible files in a folder and below, sorted; folder links are not followed."""
    found, pending = [], [folder]
    while pending:
        for entry in entries(pending.pop()):
            # Links not followed: no system call for each file, and no going in circles.
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
            elif is_image(entry.name) and not leads_to(entry.is_file):
                raise InputError(
                    f"{entry.path} is not a regular file (a pipe, device or broken link); remove it"
                )
            else:
                found.append(entry.path)
    return sorted(found)


def layout(folder: Path) -> tuple[str, str | None]:
    """The folders that hold the class folders for training and for testing.

    Splits have their usual names, in capitals or not (see ``TRAIN_FOLDERS``, ``TEST_FOLDERS``).

    Raises:
        InputError: no class folders; test images without training images; or two folders for one
            split, which would leave one of them out without a word.
    """
    below = subfolders(folder)
    splits = {name: path for name, path in below.items() if _split(name) is not None}
    train = [name for name in splits if _split(name) == "train"]
    # A class may be called "train": the word means the split if folders lie below it, or if
    # nothing but splits lies beside it.
    only_splits = splits.keys() == below.keys()
    if train and (only_splits or subfolders(below[train[0]])):
        if len(train) > 1:
            raise InputError(f"{folder} has {some(train)}: keep one of them for training")
        tests = sorted(
            (name for name in splits if _split(name) == "test"),
            key=lambda name: TEST_FOLDERS.index(name.lower()),
        )
        return below[train[0]], below[tests[0]] if tests else None
    if only_splits:
        raise InputError(_wanted(folder, "no train folder" if below else "no class folders"))
    return str(folder), None


def left_out(folder: Path) -> list[str]:
    """Names of what lies in the folder of a data set with splits and belongs to none that is read.

    >>> left_out(Path("/nowhere"))
    []
    """
    if not folder.is_dir() or layout(folder)[0] == str(folder):
        return []
    used = {Path(part).name for part in layout(folder) if part is not None}
    return [name for name in subfolders(folder) if name not in used]


def _split(name: str) -> str | None:
    """Which split a folder's name means, if any."""
    lower = name.lower()
    return "train" if lower in TRAIN_FOLDERS else "test" if lower in TEST_FOLDERS else None


def counted(names: Sequence[str]) -> list[str]:
    """Names in the order in which a person counts: 2 before 10.

    >>> counted(["s1", "s10", "s2"])
    ['s1', 's2', 's10']
    """

    def key(name: str) -> list[tuple[int, int, str]]:
        parts = re.split(r"(\d+)", name.casefold())
        return [(0, int(p[:300]), "") if p.isdecimal() else (1, 0, p) for p in parts if p]

    return sorted(names, key=key)


def class_files(folder: str, root: Path) -> dict[str, list[str]]:
    """Class name -> its image files, both in the order of their names."""
    classes = subfolders(folder)
    if not classes:
        raise InputError(_wanted(root, f"no class folders in {folder}"))
    found = {
        name: [path for path in files_below(below) if is_image(path)]
        for name, below in classes.items()
    }
    empty = [name for name, files in found.items() if not files]
    if empty:
        raise InputError(
            f"{folder}: no images in the class folders {some(empty)}; add some or remove "
            f"these folders (images end in {', '.join(SUFFIXES)})"
        )
    return found


def _wanted(folder: Path, found: str) -> str:
    return (
        f"{folder}: {found}; expected {folder}/train/<class>/*.png with "
        f"{folder}/test/<class>/*.png, or {folder}/<class>/*.png"
    )


def class_index(name: str, class_names: Sequence[str], where: str) -> int:
    """The index of a class by its name.

    Raises:
        InputError: no class of this name (the nearest ones are offered), or several of it, as
            ImageNet has two called "crane".

    >>> class_index("dog", ["cat", "dog"], "row 1")
    1
    """
    names, same = list(class_names), one_form(name)
    found = [i for i, known in enumerate(names) if one_form(known) == same]
    if len(found) > 1:
        raise InputError(
            f"{where}: classes {found[0]} and {found[1]} are both called '{name}'; rename one"
        )
    if found:
        return found[0]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the classes are {some(names)}"
    raise InputError(f"{where}: '{name}' is not one of the {len(names)} classes; {hint}")
