"""The files of run folders, read and checked, whichever version wrote them.

``row.json`` must be there; what the other files or keys leave out counts as not measured.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stakes.errors import InputError
from stakes.manifest import check_manifest
from stakes.report.records import Record, Row
from stakes.report.run_folder import RunFolder

AUDIT = ("membership", "consistency", "saliency", "retrieval", "affinities", "duplicates")
#: Keys of older run folders -> what they are called now.
RENAMED = {
    "picture": "image",
    "second_choice": "foretold",
    "chosen_hold": "chosen_feature_scale",
    "chosen_hold_why": "chosen_feature_scale_why",
    "chosen_push": "chosen_views_scale",
    "chosen_push_why": "chosen_views_scale_why",
    "method_deletion": "method_deletion_loss",
    "method_retention": "method_retention_loss",
}
#: Control characters, and those that turn the direction of what follows.
UNSEEN = dict.fromkeys(
    code
    for first, last in ((0, 8), (11, 31), (127, 159), (0x202A, 0x202E), (0x2066, 0x2069))
    for code in range(first, last + 1)
)


def read_run(folder: Path, name: str | None = None) -> RunFolder:
    """Read a run folder; only ``row.json`` must be there.

    Raises:
        InputError: if ``row.json`` is missing, a file cannot be read as what it should be, or is
            not the one that the run wrote (see :mod:`stakes.manifest`).
    """
    check_run(folder)
    check_manifest(folder)
    (row,) = _records(folder / "row.json")
    (evidence,) = _records(folder / "evidence.json") or [{}]
    history = _records(folder / "history.jsonl", lines=True)
    lists: dict[str, list[Record]] = {}
    for key in ("classes", "forget", *AUDIT):
        items = evidence.get(key) or []
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            path = folder / "evidence.json"
            raise InputError(f"{path} is damaged: '{key}' is not a list of records; run it again")
        lists[key] = items
    name = name or folder.resolve().name
    audit = {key: lists[key] for key in AUDIT}
    return RunFolder(name, Row(row), history, lists["classes"], lists["forget"], audit)


def check_run(folder: Path) -> None:
    """Refuse what is no run folder.

    Raises:
        InputError: it has no ``row.json``.
    """
    if not (folder / "row.json").is_file():
        raise InputError(
            f"{folder} is not a run folder (no row.json): give one that stakes unlearn wrote"
        )


def _records(path: Path, *, lines: bool = False) -> list[Record]:
    """The JSON object of a file, or of each of its lines; none where there is no file."""
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
        parts = [part for part in text.split("\n") if part.strip()] if lines else [text]
        records = [json.loads(part, object_hook=_migrated) for part in parts]
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}); run it again") from error
    if not all(isinstance(record, dict) for record in records):
        raise InputError(f"{path} is damaged: expected a JSON object; run it again")
    return records


def _migrated(record: Record) -> Record:
    """A record under today's keys, whichever version wrote it."""
    return {_plain(RENAMED.get(key, key)): _plain(value) for key, value in record.items()}


def _plain(value: Any) -> Any:
    r"""Text without control characters and changes of direction, which could hide what it says.

    >>> _plain("a\N{RIGHT-TO-LEFT OVERRIDE}b\x1b")
    'ab'
    """
    if isinstance(value, str):
        return value.translate(UNSEEN)
    return [_plain(item) for item in value] if isinstance(value, list) else value


def read_runs(folders: Sequence[Path]) -> list[RunFolder]:
    """Read run folders, each named by the last part of its path, or the last two if need be.

    Raises:
        InputError: see :func:`read_run`.
    """
    parts = [Path(folder).resolve().parts for folder in folders]
    last = [part[-1] for part in parts]
    names = [p[-1] if last.count(p[-1]) == 1 else "/".join(p[-2:]) for p in parts]
    return [read_run(Path(f), name) for f, name in zip(folders, names, strict=True)]
