"""An interrupted run goes on where it stopped: what changes from step to step, kept in a file.

What comes before the steps follows from the seed and is done again. What changes with them is
written every half minute, beside the result that is to come, and is used by the same job alone.
"""

import hashlib
import io
import os
import pickle
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from stakes.errors import first_line
from stakes.files import replacing
from stakes.training.precision import has_bfloat16

EVERY = 30.0  # seconds between two savings; one that takes s > 1 seconds waits s times as long
DIGEST = hashlib.sha256().digest_size


class Stateful(Protocol):
    """Anything with a state of plain values and tensors, as PyTorch's optimisers and modules."""

    def state_dict(self) -> dict[str, Any]:
        """The state; what changes it later may change what was given, too."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Take a state that ``state_dict`` gave."""
        ...


class State:
    """A thing whose state is in the attributes that ``saved`` names.

    >>> class Counter(State):
    ...     saved = ("count",)
    >>> one, other = Counter(), Counter()
    >>> one.count, other.count = 3, 0
    >>> other.load_state_dict(one.state_dict())
    >>> other.count
    3
    """

    saved: ClassVar[tuple[str, ...]]

    def state_dict(self) -> dict[str, Any]:
        """Those attributes by their names."""
        return {name: getattr(self, name) for name in self.saved}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Set them."""
        for name in self.saved:
            setattr(self, name, state[name])


class Checkpoint:
    """The file that a loop goes on from.

    It begins with the SHA-256 of the rest, which PyTorch wrote and reads without executing
    pickles. One that is damaged, or of another job, is not used and replaced.

    Args:
        path: of the file, whose folder is made; without one nothing is written or read.
        job: what the bits of the result depend on, part by part (see :func:`surroundings`).
    """

    def __init__(self, path: str | Path | None = None, job: Mapping[str, str] | None = None):
        self._path = None if path is None else Path(path)
        self._job = dict(job or {})
        self._things: list[Stateful] = []
        self._due = 0.0
        self._begun = False

    def keep(self, *things: Stateful) -> None:
        """Keep the state of these things as well; always in the same order.

        Raises:
            RuntimeError: the steps have begun, and what is in the file would be given to others.
        """
        if self._begun and self._path is not None:
            raise RuntimeError("a checkpoint is of one loop, and keeps what is there before it")
        self._things += things

    def save(self, step: int, history: list[dict[str, float]]) -> None:
        """Write the state after ``step`` where the last saving is long enough ago.

        The run goes on where it cannot be written, such as on a full disk: it is not the result.
        """
        start = time.monotonic()
        if self._path is None or start < self._due:
            return
        states = [thing.state_dict() for thing in self._things]
        buffer = io.BytesIO()
        saved = {"job": self._job, "step": step, "history": history, "states": states}
        torch.save(saved, buffer)
        with suppress(OSError):
            self._write(self._path, buffer.getvalue())
        now = time.monotonic()
        self._due = now + EVERY * max(1.0, now - start)

    def restore(self) -> tuple[int, list[dict[str, float]], str]:
        """Bring all that is kept to where the file says.

        Returns:
            The last step done and the history up to it, 0 and nothing where the run begins anew;
            and what there is to say about it.
        """
        self._begun, self._due = True, time.monotonic() + EVERY
        if self._path is None or not self._path.exists():
            return 0, [], ""
        try:
            saved = self._read(self._path)
        except (OSError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
            return 0, [], f"begun anew: {self._path.name} cannot be used ({first_line(error)})"
        other = [part for part, value in self._job.items() if saved["job"].get(part) != value]
        if other:
            return 0, [], f"begun anew, since what was saved had another {', '.join(other)}"
        for thing, state in zip(self._things, saved["states"], strict=True):
            thing.load_state_dict(state)
        return saved["step"], saved["history"], f"going on after step {saved['step']}"

    @staticmethod
    def _write(path: Path, content: bytes) -> None:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            file.write(hashlib.sha256(content).digest() + content)
            file.flush()
            os.fsync(file.fileno())  # or a power cut may leave the name without the content

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        content = path.read_bytes()
        if hashlib.sha256(content[DIGEST:]).digest() != content[:DIGEST]:
            raise ValueError("it is damaged")
        with warnings.catch_warnings():  # about pickle protocols: what cannot be read is told
            warnings.simplefilter("ignore")
            saved = torch.load(io.BytesIO(content[DIGEST:]), weights_only=True)
        if not isinstance(saved, dict) or "job" not in saved:
            raise ValueError("it is something else")
        return saved


def surroundings(device: torch.device) -> dict[str, str]:
    """What the bits of a result depend on besides what was asked for: code, hardware, threads."""
    code = hashlib.sha256()
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):
        code.update(file.read_bytes())
    if device.type == "cuda":
        kind = torch.cuda.get_device_name(device)
    else:
        kind = str(torch.backends.cpu.get_cpu_capability())
    return {
        "version of stakes": code.hexdigest(),
        "version of PyTorch": str(torch.__version__),
        "device": f"{device}, {kind}, bfloat16: {has_bfloat16(device)}",
        "number of threads": str(torch.get_num_threads()),
    }
