"""Rows of runs as a pandas DataFrame, where pandas is installed."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stakes.errors import InputError, first_line, quoted

if TYPE_CHECKING:
    from pandas import DataFrame


def frame(
    runs: Iterable[Mapping[str, Any] | str | Path] | Mapping[str, Any] | str | Path,
) -> "DataFrame":
    """One line for each run, one column for each key of its row.

    Args:
        runs: rows as :func:`stakes.evaluate` returns them, or folders that ``stakes unlearn``
            wrote, or files of rows (``rows.jsonl`` of ``stakes bench``); or one of these.

    Raises:
        InputError: pandas is not installed, a path without rows, or something that is not a row.
    """
    try:
        from pandas import DataFrame
    except ImportError as error:
        raise InputError("a DataFrame needs pandas: pip install pandas") from error
    if isinstance(runs, Mapping | str | Path) or not isinstance(runs, Iterable):
        runs = [runs]
    rows: list[Mapping[str, Any]] = []
    for run in runs:
        if not isinstance(run, Mapping | str | Path):
            raise InputError(f"{quoted(run)} is not a row: give rows of evaluate, or run folders")
        rows += [run] if isinstance(run, Mapping) else _rows(Path(run))
    return DataFrame(rows)


def _rows(path: Path) -> list[dict[str, Any]]:
    file = path
    if path.is_dir():
        names = ("row.json", "rows.jsonl")
        file = next((path / name for name in names if (path / name).is_file()), path / names[0])
    try:
        text = file.read_text(encoding="utf-8")
        lines = text.splitlines() if file.suffix == ".jsonl" else [text]
        rows = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file}: no rows of runs ({first_line(error)}); give a run folder, or rows.jsonl"
        ) from error
    if not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{file}: not rows of runs; give a run folder, or rows.jsonl")
    return rows
