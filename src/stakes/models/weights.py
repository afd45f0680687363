"""Reading weight files without ever running what is in them."""

import pickletools
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from stakes.errors import InputError, first_line, some

#: Where training scripts put the state dict inside what they save, the most usual first.
CONTAINERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")
#: What data-parallel and compiled wrappers put before every name.
WRAPPERS = ("module.", "_orig_mod.")
#: Globals every state dict asks for; whatever else a pickle names is reported.
_HARMLESS = {
    "collections.OrderedDict",
    "torch.Size",
    "torch.device",
    "builtins.set",
    "__builtin__.set",
}

#: What ``pickletools`` and ``zipfile`` raise when a file is broken.
_BROKEN = (ValueError, OverflowError, MemoryError, OSError, EOFError, RuntimeError, struct.error,
           zipfile.BadZipFile, zlib.error)  # fmt: skip


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the named tensors of a weight file onto the CPU, executing nothing.

    Reads ``.safetensors``, and by ``torch.load(weights_only=True)`` every other file that
    ``torch.save`` wrote: a plain state dict, or a dict that holds one (see ``CONTAINERS``).
    Prefixes left by wrappers (``module.``, ``_orig_mod.``) are taken off where all names have them.

    Returns:
        Name -> tensor, all finite.

    Raises:
        InputError: no such file; empty, cut off or not a weight file; a pickle that asks for
            more than tensors (its globals are named); no tensors; NaN or infinity in a tensor.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "weights.pt"
    >>> torch.save({"state_dict": {"module.fc.weight": torch.ones(2, 3)}, "epoch": 7}, path)
    >>> {name: tuple(tensor.shape) for name, tensor in read_weights(path).items()}
    {'fc.weight': (2, 3)}
    """
    path = Path(path)
    _check_file(path)
    if path.suffix == ".safetensors":
        return _strip(read_safetensors(path))
    return _finite(_strip(_state_dict(_unpickle(path), path)), path)


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Read a ``.safetensors`` file onto the CPU, names as they stand.

    Raises:
        InputError: as :func:`read_weights`.
    """
    path = Path(path)
    _check_file(path)
    try:
        tensors = safetensors.torch.load_file(path, device="cpu")
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} is cut off or not a safetensors file ({first_line(error)}); copy it again"
        ) from error
    if not tensors:
        raise InputError(f"{path} holds no tensors")
    return _finite(tensors, path)


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the weight file in it")
    if not path.is_file():
        raise InputError(f"no weight file {path}; check the path")
    if path.stat().st_size == 0:
        raise InputError(f"the weight file {path} is empty; copy it again")


def _unpickle(path: Path) -> Any:
    """``torch.load`` with ``weights_only=True``; every way to fail becomes one line."""
    try:
        with warnings.catch_warnings():  # about pickle protocols and TorchScript: see below
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # broken files make the reader raise nearly anything
        if "TorchScript" in str(error):
            raise InputError(
                f"{path} is a TorchScript program, not weights; "
                "save its state dict: torch.save(torch.jit.load(...).state_dict(), ...)"
            ) from error
        wanted = _unsafe_globals(path)
        if wanted:
            raise InputError(
                f"{path} was refused and nothing in it was run: beside tensors it asks for "
                f"{some(wanted, 8)} (a whole pickled model, or code); "
                "save only the state dict: torch.save(model.state_dict(), ...)"
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


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The named tensors in what a weight file held."""
    if isinstance(content, Tensor):
        raise InputError(f"{path} holds one bare tensor, not the named tensors of a network")
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, not a state dict")
    candidates = [content[key] for key in CONTAINERS if isinstance(content.get(key), Mapping)]
    for candidate in [*candidates, content]:
        state = {
            name: value.detach()
            for name, value in candidate.items()
            if isinstance(name, str) and isinstance(value, Tensor)
        }
        if state:
            return state
    keys = ", ".join(repr(key) for key in list(content)[:6])
    raise InputError(f"{path} holds no tensors, only {keys or 'an empty dict'}; save a state dict")


def _strip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take off what wrappers put before every name, as often as it is there."""
    for prefix in WRAPPERS * 2:
        if all(name.startswith(prefix) and name != prefix for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _finite(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    odd = [n for n, t in state.items() if t.layout != torch.strided or t.is_quantized]
    if odd:
        raise InputError(f"{path} holds sparse or quantised tensors ({some(odd)}); save plain ones")
    broken = [name for name, tensor in state.items() if not _is_finite(tensor)]
    if broken:
        raise InputError(
            f"{path} holds NaN or infinite values in {some(broken)}; take an earlier checkpoint"
        )
    return state


def _is_finite(tensor: Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    # 8-bit floats have no isfinite of their own
    return bool((tensor.float() if tensor.element_size() == 1 else tensor).isfinite().all())
