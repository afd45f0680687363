"""Checkpoints: an interrupted run resumes after its last saved step, to the same bits.

What precedes the steps follows from the seed and is repeated. What changes with them is saved
every half minute, beside the future result. The name of the file has the digest of its job, so that
no other job uses it, and the checkpoints of other jobs stay.
"""

import copy
import hashlib
import io
import json
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from stakes.errors import InputError, first_line
from stakes.files import read_sealed, write_sealed
from stakes.rows import Outcome
from stakes.training import distributed, sharding
from stakes.training.devices import device_name
from stakes.training.precision import has_bfloat16
from stakes.training.sharding import placed

EVERY = 30.0  # seconds between two savings; one that takes s > 1 seconds waits s times as long
WORTH = 5.0  # seconds of steps that are worth saving at their end, whenever the last saving was


class Stateful(Protocol):
    """Anything with a state of plain values and tensors, as PyTorch's optimisers and modules."""

    def state_dict(self) -> dict[str, Any]:
        """The state; it may share memory with the object."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Set the state to one that ``state_dict`` returned."""
        ...


class State:
    """Mutable values saved with the checkpoint: the attributes that ``saved`` names.

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
        """Set them; a tensor goes to the device of the one before it."""
        for name in self.saved:
            value, now = state[name], getattr(self, name)
            both = isinstance(value, Tensor) and isinstance(now, Tensor)
            setattr(self, name, placed(value, now) if both else value)


class Checkpoint:
    """The file from which a loop resumes.

    It begins with the SHA-256 of the rest, which PyTorch wrote and reads without executing
    pickles. A file that is damaged, impossible, or possibly written by somebody else is replaced
    unused.

    Args:
        folder: of the file; without one nothing is written or read.
        job: what the bits of the result depend on, part by part (see :func:`surroundings`).

    Attributes:
        path: of the file; None without a folder.
        digest: of the job.
        ending: what :meth:`end` was given, once :meth:`restore` has found a finished loop.
    """

    def __init__(self, folder: str | Path | None = None, job: Mapping[str, str] | None = None):
        self._job = dict(job or {})
        self.digest = hashlib.sha256(json.dumps(self._job, sort_keys=True).encode()).hexdigest()
        name = f"state-{self.digest[:16]}.pt"
        self.path = None if folder is None else Path(folder) / name
        self._things: list[Stateful] = []
        self.ending: Sequence[str] = ()
        self._due = self._worth = 0.0
        self._begun = False

    def keep(self, *things: Stateful) -> None:
        """Add objects whose state is saved, in the same order for every run of a job.

        Raises:
            RuntimeError: the steps have begun, so that the states in the file are of other objects.
        """
        if self._begun and self.path is not None:
            raise RuntimeError("a checkpoint is of one loop, and keeps what is there before it")
        self._things += things

    def save(self, step: int, history: list[dict[str, float]]) -> None:
        """Write the state after ``step`` if the last one is old enough.

        If it cannot be written, such as on a full disk, the run continues without it.
        """
        start = time.monotonic()
        if self.path is None or not _together(start >= self._due):
            return
        self._write(self.path, step, history)
        now = time.monotonic()
        self._due = now + EVERY * max(1.0, now - start)

    def end(self, history: list[dict[str, float]], ending: Sequence[str]) -> None:
        """Write the state after the last step, so that a second start takes none.

        A few seconds of steps are not worth it.

        Args:
            history: of all steps.
            ending: how they ended: a value of :class:`stakes.rows.Outcome`, and a sentence.
        """
        step = int(history[-1]["step"])
        if self.path is not None and step and _together(time.monotonic() >= self._worth):
            self.ending = ending
            self._write(self.path, step, history)

    def restore(self, max_steps: int) -> tuple[int, list[dict[str, float]], str]:
        """Set every object to its state in the file.

        Args:
            max_steps: the step budget, which a usable state is within.

        Returns:
            The last step done and the history up to it, or 0 and an empty one where the run starts
            over; and a note on it for the user, or none.
        """
        now = time.monotonic()
        self._begun, self._due, self._worth = True, now + EVERY, now + min(WORTH, EVERY)
        saved, note = self._found(max_steps) if distributed.is_writer() else (None, "")
        if distributed.count() > 1:
            content = distributed.from_writer(b"" if saved is None else _packed(saved))
            saved = _unpacked(content) if content else None
        if saved is None:
            return 0, [], note
        before = copy.deepcopy([thing.state_dict() for thing in self._things])
        try:
            _load(self._things, saved["states"])
        except Exception as error:  # whatever a file may hold
            _load(self._things, before)
            return 0, [], self._unusable(error)
        self.ending = saved["ending"]
        note = f"going on after step {saved['step']}{', the last' if self.ending else ''}"
        return saved["step"], saved["history"], note if distributed.is_writer() else ""

    def _found(self, max_steps: int) -> tuple[dict[str, Any] | None, str]:
        """What the file holds if this run can have saved it, else a note."""
        if self.path is None:
            return None, ""
        if not os.path.lexists(self.path):
            return None, self._others(self.path.parent)
        try:
            saved = self._read(self.path)
            if saved["job"] != self._job:
                raise ValueError("it is of another job")
            _check_possible(saved, max_steps)
        except Exception as error:  # whatever a file may hold
            return None, self._unusable(error)
        return saved, ""

    def _unusable(self, error: Exception) -> str:
        name = "" if self.path is None else self.path.name
        return f"starting over: {name} cannot be used ({first_line(error)})"

    def _others(self, folder: Path) -> str:
        """A note on the checkpoints of other jobs: how the last of them differs."""
        try:
            jobs = {path.stat().st_mtime: path for path in folder.glob("state-*.pt")}
            if not jobs:
                return ""
            found = self._read(jobs[max(jobs)])["job"]
            other = [part for part, value in self._job.items() if found.get(part) != value]
        except Exception:  # whatever a file may hold
            other = []
        differing = ", ".join(other) or "origin"
        return f"starting over: the checkpoint was written with another {differing}; it is kept"

    def _write(self, path: Path, step: int, history: list[dict[str, float]]) -> None:
        states = [thing.state_dict() for thing in self._things]
        if sharding.is_wanted():
            states = sharding.gathered(states)
        if not distributed.is_writer():
            return
        saved = {"step": step, "history": history, "ending": list(self.ending), "states": states}
        with suppress(OSError, InputError):
            write_sealed(path, _packed({"job": self._job, **saved}))

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        content = read_sealed(path)
        with warnings.catch_warnings():  # about pickle protocols: the error below says it
            warnings.simplefilter("ignore")
            saved = _unpacked(content)
        if not isinstance(saved, dict) or "job" not in saved:
            raise ValueError("it is something else")
        return saved


def _together(due: bool) -> bool:
    """Whether this process is to save now: the writer by its clock, and others where they must.

    The writer alone knows where weights are whole. Divided ones are put together by all.
    """
    if sharding.is_wanted():
        return bool(distributed.from_writer(b"due" if due else b""))
    return due and distributed.is_writer()


def _packed(saved: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(saved), buffer)
    return buffer.getvalue()


def _unpacked(content: bytes) -> Any:
    """What was packed; of several processes, each brings it to its own device later."""
    where = "cpu" if distributed.count() > 1 else None
    return torch.load(io.BytesIO(content), weights_only=True, map_location=where)


def _check_possible(saved: Mapping[str, Any], max_steps: int) -> None:
    """Refuse, with a ValueError, a state that no loop of so many steps can have saved."""
    step, history, ended = saved["step"], saved["history"], bool(saved["ending"])
    if type(step) is not int or not 0 <= step < max_steps + ended:
        raise ValueError(f"step {step} of {max_steps}")
    if ended:
        outcome, sentence = saved["ending"]
        if outcome not in set(Outcome) or not isinstance(sentence, str):
            raise ValueError("its steps ended in no known way")
    steps = [row["step"] for row in history]
    if not steps or steps != sorted(set(steps)) or steps[0] != 0 or steps[-1] > step:
        raise ValueError("its history is not that of its step")
    if not all(isinstance(value, int | float) for row in history for value in row.values()):
        raise ValueError("its history is not a table of numbers")


def _load(things: Sequence[Stateful], states: Sequence[dict[str, Any]]) -> None:
    """Set each object to its state.

    Raises:
        ValueError: an optimiser's state has another shape than its parameter, which the optimiser
            itself would notice at its next step only.
    """
    for thing, state in zip(things, states, strict=True):
        if isinstance(thing, torch.optim.Optimizer):
            state = _of_optimizer(thing, state)
        elif isinstance(thing, torch.nn.Module):
            now = thing.state_dict()
            state.update(
                {name: placed(value, now.get(name, value)) for name, value in state.items()}
            )
        thing.load_state_dict(state)


def _of_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """A saved state, divided as the parameters are; how it is computed stays as it is now."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments: dict[int, dict[str, Any]] = {}
    for index, saved in state["state"].items():
        own, tensors = parameters[index], {n for n, v in saved.items() if isinstance(v, Tensor)}
        if not {saved[name].shape for name in tensors} <= {own.shape, torch.Size()}:
            raise ValueError("an optimiser's state has another shape")
        shaped = {name for name in tensors if saved[name].shape == own.shape}
        moments[index] = saved | {name: placed(saved[name], own) for name in shaped}
    groups = [
        saved | {name: now[name] for name in ("foreach",) if name in now}
        for saved, now in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    return {"state": moments, "param_groups": groups}


def surroundings(device: torch.device) -> dict[str, str]:
    """What the bits of a result depend on besides the request: code, hardware, threads."""
    kind = device_name(device) or str(torch.backends.cpu.get_cpu_capability())
    return {
        "version of stakes": _code(),
        "version of PyTorch": str(torch.__version__),
        "device": f"{device}, {kind}, bfloat16: {has_bfloat16(device)}",
        "number of threads": str(torch.get_num_threads()),
    }


@cache
def _code() -> str:
    """SHA-256 of this package's files as they were when they were first asked for."""
    code = hashlib.sha256()
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):
        code.update(file.read_bytes())
    return code.hexdigest()
