"""Which images a folder, a table or a word asks to forget, before any of them is decoded."""

import csv
import math
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from stakes.data.folders import class_index, entries, files_below, is_image
from stakes.errors import InputError

CLUTTER = ("thumbs.db", "desktop.ini")  # left by Windows in folders of images

Row = tuple[str, int, str]
"""An image: its path, its label and its name."""


def folder_rows(folder: str | Path, class_names: Sequence[str]) -> list[Row]:
    """The images of FOLDER/<class>/..., see :meth:`stakes.data.forget.ForgetSet.from_folder`."""
    top = Path(folder).expanduser()
    rows: list[Row] = []
    for entry in entries(top):
        if entry.name.lower() in CLUTTER:
            continue
        if not entry.is_dir():
            raise InputError(f"{entry.path}: not in a class folder; put it into {top}/<class>/")
        label = class_index(entry.name, class_names, entry.path)
        for path in files_below(entry.path):
            if Path(path).name.lower() in CLUTTER:
                continue
            if not is_image(path):
                raise InputError(f"{path}: no image in a known format; save it as PNG or remove it")
            rows.append((path, label, str(Path(path).relative_to(top))))
    if not rows:
        raise InputError(f"{folder}: no images to forget; wanted is {folder}/<class>/*.png")
    return rows


def csv_rows(file: str | Path, class_names: Sequence[str]) -> list[Row]:
    """The images of a table, see :meth:`stakes.data.forget.ForgetSet.from_csv`."""
    rows = list(_csv_rows(Path(file).expanduser(), class_names))
    if not rows:
        raise InputError(f"{file}: no rows, so no images to forget")
    return rows


def whole_classes(
    text: str, labels: Tensor, class_names: Sequence[str], seed: int
) -> tuple[int, ...]:
    """The classes, ascending, that a list of names or a share such as ``10%`` means.

    A name with a comma in it stands in double quotes, as in a CSV table. A share is that of the
    classes with images, rounded up and drawn with ``seed``; with one seed, a smaller share is
    part of a larger one.

    Args:
        text: ``NAME,NAME,...`` or a number with ``%``.
        labels: (n,) of the training set.
        class_names: the classes, in the order of their labels.
        seed: of the draw.

    Raises:
        InputError: an unknown class (the nearest is named), one without images, no class, a
            share outside 0 to 100, or every class there is.

    >>> whole_classes("dog, cat", torch.tensor([0, 1, 2]), ["cat", "dog", "horse"], 0)
    (0, 1)
    >>> len(whole_classes("34%", torch.tensor([0, 1, 2]), ["cat", "dog", "horse"], 0))
    2
    """
    where = f"--forget classes:{text}"
    there = labels.unique().tolist()
    share = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text)
    if share is not None:
        percent = Fraction(share[1])
        if not 0 < percent <= 100:
            raise InputError(f"{where}: give a share above 0% and below 100%, such as classes:10%")
        count = math.ceil(len(there) * percent / 100)
        order = torch.randperm(len(there), generator=torch.Generator().manual_seed(seed))
        chosen = {there[i] for i in order[:count].tolist()}
    else:
        names = [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]
        if not all(names) or not names:
            raise InputError(f"{where}: give names, such as classes:cat,dog, or a share, 10%")
        chosen = {class_index(name, class_names, where) for name in names}
        empty = [class_names[i] for i in sorted(chosen.difference(there))]
        if empty:
            raise InputError(f"{where}: the training set has no images of {', '.join(empty)}")
    if len(chosen) == len(there):
        raise InputError(
            f"{where}: these are all {len(there)} classes with images; leave one to be kept"
        )
    return tuple(sorted(chosen))


def _csv_rows(file: Path, class_names: Sequence[str]) -> Iterator[Row]:
    try:
        # Excel begins with a byte order mark, which utf-8-sig takes off.
        with open(file, newline="", encoding="utf-8-sig") as lines:
            rows = csv.DictReader(lines, restval="")
            header = [name.strip() for name in rows.fieldnames or []]
            if "path" not in header or "label" not in header:
                raise InputError(f"{file} line 1: wanted the header path,label")
            rows.fieldnames = header
            for row in rows:
                where = f"{file} line {rows.line_num}"
                path, label = row["path"].strip(), row["label"].strip()
                if None in row:
                    raise InputError(f"{where}: more columns than the header; quote commas")
                if not path or not label:
                    raise InputError(f"{where}: wanted a path and a label")
                if not (file.parent / path).is_file():
                    raise InputError(f"{where}: no such image: {file.parent / path}")
                yield str(file.parent / path), _label(label, class_names, where), path
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: cannot be read as a table ({error})") from error


def _label(text: str, class_names: Sequence[str], where: str) -> int:
    if text in class_names or not text.isdecimal():
        return class_index(text, class_names, where)
    if int(text) >= len(class_names):
        raise InputError(f"{where}: label {text}, but the classes are 0 to {len(class_names) - 1}")
    return int(text)
