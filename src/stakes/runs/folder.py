"""The folder of a run: it appears whole or not at all."""

import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from stakes.errors import InputError

RUN_FILES = (
    "model.safetensors", "model.json", "row.json", "history.jsonl", "evidence.json",
    "stakes.safetensors", "report.html", "config.json", "preprocessor_config.json",
)  # fmt: skip


def check_out(
    out: str | Path,
    overwrite: bool,
    *,
    files: Collection[str] = RUN_FILES,
    mark: str = "row.json",
) -> None:
    """Refuse an output folder that cannot be made, or with something in it that is to stay.

    Args:
        out: the folder.
        overwrite: whether an earlier result in it may be replaced.
        files: names in an earlier result; a folder with others in it is never replaced.
        mark: the file without which it is no earlier result.

    Raises:
        InputError: ``out`` is a file, cannot be written, or is not empty and not to be replaced.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file: give a folder that does not exist yet")
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"--out {out}: nothing can be written in {above}; give another folder")
    held = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if held and not overwrite:
        raise InputError(f"--out {out} is not empty: give another folder, or add --overwrite")
    foreign = sorted(held.difference(files))
    if foreign or (held and mark not in held):
        name = [*foreign, *sorted(held)][0]
        raise InputError(
            f"--out {out} holds {name}, which is no part of an earlier result: --overwrite would "
            "delete it; give another folder"
        )


def checkpoint_beside(out: str | Path) -> Path:
    """Where a run that is to write ``out`` keeps its state, in a hidden folder of its own.

    >>> checkpoint_beside("/runs/one").as_posix()
    '/runs/.one.checkpoint/state.pt'
    """
    out = Path(out).resolve()
    return out.with_name(f".{out.name}.checkpoint") / "state.pt"


@contextmanager
def new_folder(out: str | Path) -> Iterator[Path]:
    """Give a folder of the same name beside ``out``; on success it takes its place, else it goes.

    >>> import tempfile
    >>> out = Path(tempfile.mkdtemp()) / "run"
    >>> with new_folder(out) as folder:
    ...     _ = (folder / "row.json").write_text("{}")
    ...     folder.name, out.exists()
    ('run', False)
    >>> [path.name for path in out.iterdir()], [path.name for path in out.parent.iterdir()]
    (['row.json'], ['run'])
    """
    out = Path(out).resolve()  # a link stays, and what it leads to is replaced
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    made, old = beside / "new" / out.name, beside / "old"
    made.mkdir(parents=True)
    try:
        yield made
        if out.exists():
            out.rename(old)
        made.rename(out)
    finally:
        if old.exists() and not out.exists():
            old.rename(out)
        shutil.rmtree(beside, ignore_errors=True)
