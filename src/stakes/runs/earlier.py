"""What lies in an output folder already: an earlier result, known by its manifest, or not."""

import json
from collections.abc import Sequence
from pathlib import Path

from stakes.errors import InputError
from stakes.manifest import MANIFEST, check_manifest, read_manifest

#: Of an earlier version's result, which had no manifest.
RUN_FILES = (
    "model.safetensors", "model.json", "row.json", "history.jsonl", "evidence.json",
    "stakes.safetensors", "report.html", "config.json", "preprocessor_config.json",
)  # fmt: skip


def whole(folder: Path) -> bool:
    """Whether a folder is as a run wrote it."""
    try:
        return check_manifest(folder)
    except InputError:
        return False


def foreign_in(out: Path, entries: Sequence[Path]) -> str | None:
    """Something in a folder that no run has written; None where there is no such thing.

    Args:
        out: the folder.
        entries: what is in it, but for what may be there beside a result.
    """
    try:
        listed = read_manifest(out) if entries else None
    except InputError:
        listed = None  # damaged: known by its names
    if listed is None:
        return _not_older(entries)
    known = {out / name for name in (MANIFEST, *listed)}
    above = {folder for path in known for folder in path.parents}
    for path in [p for entry in entries for p in (entry, *entry.rglob("*"))]:
        if path.is_symlink() or path not in (above if path.is_dir() else known):
            return str(path.relative_to(out))
    return None


def _not_older(entries: Sequence[Path]) -> str | None:
    """What is neither a run's file without a manifest nor a demonstration's folder of them."""
    runs = [path for path in entries if path.is_dir() and not path.is_symlink()]
    files = [path for path in entries if path not in runs]
    for path in files:
        if path.name not in (MANIFEST, *RUN_FILES) or path.is_symlink() or not path.is_file():
            return path.name
    for folder in runs:
        inner = sorted(folder.iterdir())
        if not inner or any(path.is_dir() for path in inner):
            return folder.name
        if (foreign := _not_older(inner)) is not None:
            return f"{folder.name}/{foreign}"
    is_result = any(path.name == "report.html" if runs else _is_row(path) for path in files)
    return entries[0].name if entries and not is_result else None


def _is_row(path: Path) -> bool:
    """Whether a file is the row of a run."""
    try:
        return path.name == "row.json" and "unlearned_digest" in json.loads(path.read_bytes())
    except (OSError, ValueError, TypeError, RecursionError):
        return False
