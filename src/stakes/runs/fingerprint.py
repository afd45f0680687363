"""What a cell of a benchmark depends on: its options, and the files that they name."""

import csv
import hashlib
import io
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from stakes.errors import InputError
from stakes.files import file_digest
from stakes.texts import expanded, read_text


def fingerprint(options: Mapping[str, Any], repeated: Collection[str] = ()) -> str:
    """SHA-256 over the options and over the files that they name, but for whole data sets.

    Of the images to forget, every file counts: of a folder all that are in it, of a table those
    that it lists. Options ``repeated`` have a list of values, each of which may name a file.
    """
    values = {key: options[key] for key in sorted(options)}
    named = [(k, v) for k, own in values.items() for v in (own if k in repeated else [own])]
    files = {
        k if v == values[k] else f"{k} {v}": _digest(v, k) for k, v in named if isinstance(v, str)
    }
    text = json.dumps([values, {k: v for k, v in files.items() if v}], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(value: str, key: str) -> str | None:
    """The digest of the file that an option names: weights, anchors, code, a saved network."""
    code, colon, _ = value.rpartition(":")
    try:
        path = expanded(code if colon and code.endswith(".py") else value)
        if key == "forget":
            return _of_images(path)
        path = path / "model.safetensors" if path.is_dir() else path
        return file_digest(path) if path.is_file() else None
    except (OSError, InputError, csv.Error):  # unlearn will say what is wrong with it
        return None


def _of_images(path: Path) -> str | None:
    """Of a folder, or a table of paths, that of its names and of the files."""
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.is_file()]
        listed = [[str(file.relative_to(path)), file_digest(file)] for file in files]
    elif path.is_file():
        rows = csv.DictReader(io.StringIO(read_text(path, "--forget").removeprefix("\ufeff")))
        named = [row["path"].strip() for row in rows if row.get("path")]
        images = {name: path.parent / expanded(name) for name in named}
        listed = [[name, file_digest(file)] for name, file in images.items() if file.is_file()]
        listed.append([path.name, file_digest(path)])
    else:
        return None
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()
