"""Reading weight files without ever running what is in them."""

import argparse
import errno
import pickletools
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from stakes.errors import InputError, first_line, some
from stakes.models.hf import read_json
from stakes.models.state_dicts import network_state
from stakes.texts import check_file, expanded

#: Globals every state dict asks for; whatever else a pickle names is reported.
_HARMLESS = {
    "collections.OrderedDict",
    "torch.Size",
    "torch.device",
    "builtins.set",
    "__builtin__.set",
}

_SCALAR = np.float64(0).__reduce__()[0]
#: Plain values that trainers put beside the weights: their arguments, paths, numbers of numpy.
_PLAIN: list[Any] = [
    argparse.Namespace,
    (type(Path()), "pathlib.PosixPath"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]

#: What ``pickletools`` and ``zipfile`` raise when a file is broken.
_BROKEN = (ValueError, OverflowError, MemoryError, OSError, EOFError, RuntimeError, struct.error,
           zipfile.BadZipFile, zlib.error)  # fmt: skip


def read_weights(
    path: str | Path, own: Mapping[str, Any] | None = None, key: str | None = None
) -> dict[str, Tensor]:
    """Read the named tensors of a weight file onto the CPU, executing nothing.

    Reads ``.safetensors``, the index of a file in several parts (``*.index.json``), and by
    ``torch.load(weights_only=True)`` every other file that ``torch.save`` wrote: a plain state
    dict, or a checkpoint that holds one (see :func:`stakes.models.state_dicts.network_state`).

    Args:
        path: the file.
        own: the state dict of the network that wants them: names are brought to its names.
        key: which of several networks in the file to take.

    Returns:
        Name -> tensor, all finite.

    Raises:
        InputError: no such file; empty, cut off or not a weight file; a pickle that asks for
            more than tensors (its globals are named); no tensors; several networks that fit;
            NaN or infinity in a tensor.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "weights.pt"
    >>> torch.save({"state_dict": {"module.fc.weight": torch.ones(2, 3)}, "epoch": 7}, path)
    >>> {name: tuple(tensor.shape) for name, tensor in read_weights(path).items()}
    {'fc.weight': (2, 3)}
    """
    path = expanded(path)
    if path.name.endswith(".index.json"):
        content: Any = _parts(path)
    else:
        _check_file(path)
        content = read_safetensors(path) if path.suffix == ".safetensors" else _unpickle(path)
    return _finite(network_state(content, str(path), own, key), path)


def _parts(index: Path) -> dict[str, Tensor]:
    """The tensors of all parts that an index of the transformers library names."""
    places = read_json(index).get("weight_map")
    files = sorted({*places.values()}, key=str) if isinstance(places, dict) else []
    if not files or not all(isinstance(name, str) and Path(name).name == name for name in files):
        raise InputError(f"{index} names no parts beside it; copy the whole folder again")
    state: dict[str, Tensor] = {}
    for name in files:
        state |= read_weights(index.with_name(name))
    return state


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Read a ``.safetensors`` file onto the CPU, names as they stand.

    Raises:
        InputError: as :func:`read_weights`.
    """
    path = expanded(path)
    _check_file(path)
    try:
        tensors = safetensors.torch.load_file(path, device="cpu")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}; check it") from error
    except Exception as error:  # types that torch lacks, among others
        raise InputError(
            f"{path} is cut off or not a safetensors file ({first_line(error)}); copy it again"
        ) from error
    if not tensors:
        raise InputError(f"{path} holds no tensors; take a trained checkpoint")
    return _finite(tensors, path)


def _check_file(path: Path) -> None:
    check_file(path, "weights")
    if path.stat().st_size == 0:
        raise InputError(f"the weight file {path} is empty; copy it again")


def _unpickle(path: Path) -> Any:
    """``torch.load`` with ``weights_only=True``; every way to fail becomes one line."""
    try:
        with (
            warnings.catch_warnings(),
            torch.serialization.safe_globals(_PLAIN),
        ):  # about pickle protocols and TorchScript: see below
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        if error.errno == errno.EINVAL:  # it seeks beyond the end of what is left of the file
            raise InputError(f"{path} is cut off; copy it again") from error
        raise InputError(f"{path} cannot be read: {error.strerror or error}; check it") from error
    except Exception as error:  # broken files make the reader raise nearly anything
        if "TorchScript" in str(error):
            raise InputError(
                f"{path} is a TorchScript program, not weights; "
                "save its state dict: torch.save(torch.jit.load(...).state_dict(), ...)"
            ) from error
        wanted = _unsafe_globals(path)
        if wanted:
            raise InputError(
                f"{path} was refused, and nothing in it was run: besides tensors it needs "
                f"{some(wanted, 8)} (a whole pickled model, or code); save only the state "
                "dict: torch.save(model.state_dict(), ...)"
            ) from error
        raise InputError(
            f"{path} is cut off or not a PyTorch weight file; copy it again"
        ) from error


def _unsafe_globals(path: Path) -> list[str]:
    """Names beyond tensors that the pickles of a file would import, read without running them.

    ``torch.serialization.get_unsafe_globals_in_checkpoint`` knows only the zip layout, so the
    pickle operations are listed here for both layouts. It serves the message alone: what may be
    loaded is decided by ``torch.load(weights_only=True)``.
    """
    found: set[str] = set()
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith("/data.pkl") and "/code/" not in name:
                        with archive.open(name) as file:
                            found |= _globals_of(file)  # type: ignore[arg-type]
        else:
            with open(path, "rb") as file:
                # The older layout is several pickles in a row, then raw numbers, where this ends.
                while file.peek(1):
                    found |= _globals_of(file)
    except _BROKEN:
        pass  # the file is broken as well; what was found up to there is still worth telling
    return sorted(found)


def _globals_of(file: BinaryIO) -> set[str]:
    """Names that one pickle imports (``GLOBAL``, ``INST`` and ``STACK_GLOBAL`` operations)."""
    found: set[str] = set()
    strings: list[str] = []  # what STACK_GLOBAL takes its two names from
    memo: dict[Any, str] = {}
    try:
        for operation, argument, _ in pickletools.genops(file):
            if operation.name in ("GLOBAL", "INST"):
                found.add(str(argument).replace(" ", ".", 1))
            elif operation.name == "STACK_GLOBAL":
                found.add(".".join(strings[-2:]))
            elif operation.name == "MEMOIZE":
                memo[len(memo)] = strings[-1] if strings else ""
            elif operation.name in ("PUT", "BINPUT", "LONG_BINPUT"):
                memo[argument] = strings[-1] if strings else ""
            elif operation.name in ("GET", "BINGET", "LONG_BINGET"):
                strings.append(memo.get(argument, ""))
            elif isinstance(argument, str):
                strings.append(argument)
    except ValueError:
        if not found:  # what was named before the pickle broke off is worth telling
            raise
    return {name for name in found if _is_name(name) and not _is_harmless(name)}


def _is_name(name: str) -> bool:
    return "." in name and all(part.isidentifier() for part in name.split("."))


def _is_harmless(name: str) -> bool:
    is_storage = name.startswith("torch.") and name.endswith("Storage")
    return is_storage or name.startswith("torch._utils._rebuild_") or name in _HARMLESS


def _finite(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    odd = [n for n, t in state.items() if t.layout != torch.strided or t.is_quantized]
    if odd:
        raise InputError(f"{path} holds sparse or quantised tensors ({some(odd)}); save plain ones")
    try:
        broken = [name for name, tensor in state.items() if not _is_finite(tensor)]
    except (RuntimeError, NotImplementedError, TypeError) as error:  # such as 4-bit types
        kinds = sorted({str(tensor.dtype) for tensor in state.values()})
        raise InputError(f"{path} holds tensors of {some(kinds)}; save them as float32") from error
    if not any(_says_something(tensor) for tensor in state.values()):
        raise InputError(f"{path} holds nothing but zeros; take a trained checkpoint")
    if broken:
        raise InputError(
            f"{path} holds NaN or infinite values in {some(broken)}; take an earlier checkpoint"
        )
    return state


def _says_something(tensor: Tensor) -> bool:
    """Whether a tensor has a value that float32 tells from zero."""
    return tensor.numel() == 0 or bool((tensor.abs() > 1e-30).any())


def _is_finite(tensor: Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    # 8-bit floats have no isfinite of their own
    return bool((tensor.float() if tensor.element_size() == 1 else tensor).isfinite().all())
