"""A forget set in one safetensors file: no code in it is ever run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from stakes.errors import InputError, first_line
from stakes.files import replacing

FORMAT = "stakes forget set 1"


def write(
    path: str | Path,
    *,
    images: Tensor,
    labels: Tensor,
    names: Sequence[str],
    indices: Sequence[int] | None,
    dropped: int,
    classes: Sequence[int],
) -> None:
    """Write the parts of a :class:`stakes.data.forget.ForgetSet`, in one step."""
    tensors = {"images": images.cpu().contiguous(), "labels": labels.cpu().contiguous()}
    if indices is not None:
        tensors["indices"] = torch.tensor(indices, dtype=torch.int64)
    said = {"names": list(names), "dropped": dropped, "classes": list(classes)}
    metadata = {"format": FORMAT, "set": json.dumps(said)}
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors, metadata=metadata))


def read(path: str | Path) -> dict[str, Any]:
    """The parts that :func:`write` wrote, by name.

    Raises:
        InputError: no such file, or not a forget set.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata.get("format") != FORMAT:
            raise InputError(f"{path}: no forget set; give a file that ForgetSet.save wrote")
        said = json.loads(metadata["set"])
        indices = tensors.get("indices")
        return {
            "images": tensors["images"],
            "labels": tensors["labels"],
            "names": tuple(said["names"]),
            "indices": None if indices is None else tuple(indices.tolist()),
            "dropped": int(said["dropped"]),
            "classes": tuple(said["classes"]),
        }
    except InputError:
        raise
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as a forget set ({first_line(error)}); "
            "give a file that ForgetSet.save wrote"
        ) from error
