"""Anchors on disk: one ``.safetensors`` file with a card, or an ``.npy`` of vectors alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from stakes.errors import InputError, some
from stakes.files import SHARED_FILE, write_bytes
from stakes.texts import check_file

SUFFIXES = (".safetensors", ".npy")


def read(path: Path) -> tuple[Tensor, dict[str, Any] | None]:
    """The vectors in a file, and what is written with them where it has a card.

    Raises:
        InputError: no such file, or one that cannot be read.
    """
    check_file(path, "anchors")
    return (_read_npy(path), None) if path.suffix == ".npy" else _read_safetensors(path)


def write(path: str | Path, vectors: Tensor, written: dict[str, Any]) -> None:
    """Write vectors, and beside them their class names and card.

    Raises:
        InputError: the name does not end in .safetensors.
    """
    check_suffix(path)
    # One metadata entry: the order of several is not defined, and bytes should repeat.
    content = save({"anchors": vectors.contiguous()}, {"stakes": json.dumps(written)})
    write_bytes(path, content, SHARED_FILE)


def check_suffix(path: str | Path) -> None:
    """Refuse, with an InputError, to write anchors under another kind of name."""
    if Path(path).suffix != ".safetensors":
        raise InputError(f"anchors are written as .safetensors: rename {path}")


def _read_npy(path: Path) -> Tensor:
    try:
        array = np.load(path, allow_pickle=False)
        if array.dtype.kind not in "fiu":
            raise TypeError(f"values of type {array.dtype}")
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    except (OSError, ValueError, TypeError, EOFError, MemoryError, OverflowError) as error:
        raise InputError(f"{path} is not an .npy file of numbers: write it again") from error


def _is_ours(written: Any) -> bool:
    """Whether metadata says what an anchors file has to say."""
    return (
        isinstance(written, dict)
        and isinstance(written.get("card"), dict)
        and isinstance(written.get("class_names"), list)
        and all(isinstance(name, str) for name in written["class_names"])
        and type(written.get("per_class", 1)) is int
    )


def _read_safetensors(path: Path) -> tuple[Tensor, dict[str, Any] | None]:
    """Read the vectors, and class names and card where the file has them."""
    try:
        with safe_open(path, framework="pt") as file:
            keys = list(file.keys())
            if "anchors" not in keys and len(keys) != 1:
                raise InputError(
                    f'{path} has no tensor "anchors": it holds {some(keys)}; '
                    "make one with stakes anchors"
                )
            vectors = file.get_tensor("anchors" if "anchors" in keys else keys[0]).float()
            text = (file.metadata() or {}).get("stakes")
            written = None if text is None else json.loads(text)
    except InputError:
        raise
    except (SafetensorError, OSError, ValueError, RecursionError, RuntimeError) as error:
        raise InputError(f"{path} cannot be read as safetensors: write it again") from error
    if written is not None and not _is_ours(written):
        raise InputError(
            f"{path} has no class names or card of ours: it is not an anchors file; make it with "
            "stakes anchors"
        )
    return vectors, written
