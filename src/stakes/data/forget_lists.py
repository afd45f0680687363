"""Which images a folder, a table or a word asks to forget, before any of them is decoded."""

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from stakes.data.folders import class_index, entries, files_below, is_image, leads_to
from stakes.errors import InputError, shortened, some
from stakes.texts import check_file, expanded, one_form, read_text

CLUTTER = ("thumbs.db", "desktop.ini")  # left by Windows in folders of images

Row = tuple[str, int, str]
"""An image: its path, its label and its name."""


def folder_rows(folder: str | Path, class_names: Sequence[str]) -> list[Row]:
    """The images of FOLDER/<class>/..., see :meth:`stakes.data.forget.ForgetSet.from_folder`."""
    top = expanded(folder)
    rows: list[Row] = []
    for entry in entries(top):
        if entry.name.lower() in CLUTTER:
            continue
        if not leads_to(entry.is_dir):
            raise InputError(f"{entry.path}: not in a class folder; put it into {top}/<class>/")
        label = class_index(entry.name, class_names, entry.path)
        for path in files_below(entry.path):
            if Path(path).name.lower() in CLUTTER:
                continue
            if not is_image(path):
                raise InputError(
                    f"{path}: no image in a known format, by the ending of its name; save it as "
                    "NAME.png or remove it"
                )
            rows.append((path, label, str(Path(path).relative_to(top))))
    if not rows:
        raise InputError(f"{folder}: no images to forget; expected {folder}/<class>/*.png")
    return rows


def csv_rows(file: str | Path, class_names: Sequence[str]) -> list[Row]:
    """The images of a table, see :meth:`stakes.data.forget.ForgetSet.from_csv`."""
    rows = list(_csv_rows(expanded(file), class_names))
    if not rows:
        raise InputError(f"{file}: no rows, so no images to forget; add a line for each")
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
            raise InputError(
                f"{where}: the training set has no images of {', '.join(empty)}; leave it out"
            )
    if len(chosen) == len(there):
        raise InputError(
            f"{where}: these are all {len(there)} classes with images; leave out at least one"
        )
    return tuple(sorted(chosen))


def _csv_rows(file: Path, class_names: Sequence[str]) -> Iterator[Row]:
    # Excel begins with a byte order mark, and writes UTF-16 as "Unicode text".
    text = read_text(file, "--forget").removeprefix("\ufeff")
    try:
        rows = csv.DictReader(io.StringIO(text, newline=""), restval="")
        header = [name.strip() for name in rows.fieldnames or []]
        counted = "index" in header and "label" not in header
        if "path" not in header or ("label" not in header and not counted):
            raise InputError(
                f"{file} line 1: expected the header path,label (class names) or path,index "
                "(class numbers counted from 0), with commas"
            )
        if len(set(header)) < len(header):
            raise InputError(f"{file} line 1: a column appears twice; keep one")
        rows.fieldnames = header
        read = _index if counted else _label
        for row in rows:
            where = f"{file} line {rows.line_num}"
            path, label = row["path"].strip(), row["index" if counted else "label"].strip()
            if None in row:
                raise InputError(f"{where}: more columns than the header; quote commas")
            if not path or not label:
                raise InputError(f"{where}: expected a path and a label")
            place = file.parent / expanded(path)
            check_file(place, f"{where}: image")
            yield str(place), read(label, class_names, where), path
    except csv.Error as error:
        raise InputError(f"{file}: cannot be read as a table ({error}); write it again") from error


def _label(text: str, class_names: Sequence[str], where: str) -> int:
    """The class of this name. Numbers are no names: they might count from 0 or from 1."""
    known = {one_form(name) for name in class_names}
    if text.isdecimal() and one_form(text) not in known:
        raise InputError(
            f"{where}: label {shortened(text)} is not a class name ({some(class_names)}); if "
            "these are class numbers counted from 0, name the column index"
        )
    return class_index(text, class_names, where)


def _index(text: str, class_names: Sequence[str], where: str) -> int:
    if not text.isdecimal() or len(text) > 9 or int(text) >= len(class_names):
        raise InputError(
            f"{where}: index {shortened(text)}, but the classes are 0 to {len(class_names) - 1}; "
            "count from 0"
        )
    return int(text)
