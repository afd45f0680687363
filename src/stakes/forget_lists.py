"""Which pictures a folder or a table asks to forget, checked before any of them is decoded."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from stakes.errors import InputError
from stakes.folders import class_index, entries, files_below, is_picture

CLUTTER = ("thumbs.db", "desktop.ini")  # left by Windows in folders of pictures

Row = tuple[str, int, str]
"""A picture: its path, its label and its name."""


def folder_rows(folder: str | Path, class_names: Sequence[str]) -> list[Row]:
    """The pictures of FOLDER/<class>/..., see :meth:`stakes.forget.ForgetSet.from_folder`."""
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
            if not is_picture(path):
                raise InputError(
                    f"{path}: no picture in a known format; save it as PNG or remove it"
                )
            rows.append((path, label, str(Path(path).relative_to(top))))
    if not rows:
        raise InputError(f"{folder}: no pictures to forget; wanted is {folder}/<class>/*.png")
    return rows


def csv_rows(file: str | Path, class_names: Sequence[str]) -> list[Row]:
    """The pictures of a table, see :meth:`stakes.forget.ForgetSet.from_csv`."""
    rows = list(_csv_rows(Path(file).expanduser(), class_names))
    if not rows:
        raise InputError(f"{file}: no rows, so no pictures to forget")
    return rows


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
                    raise InputError(f"{where}: no such picture: {file.parent / path}")
                yield str(file.parent / path), _label(label, class_names, where), path
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: cannot be read as a table ({error})") from error


def _label(text: str, class_names: Sequence[str], where: str) -> int:
    if text in class_names or not text.isdecimal():
        return class_index(text, class_names, where)
    if int(text) >= len(class_names):
        raise InputError(f"{where}: label {text}, but the classes are 0 to {len(class_names) - 1}")
    return int(text)
