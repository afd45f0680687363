"""One cell of a benchmark as a process of its own, on this machine or on a worker of a cluster.

DIR/runs/CELL is what ``stakes unlearn`` writes, DIR/cells/CELL.json says how the cell went and
DIR/cells/CELL.log what it printed. A cell ends with the process that started it, however that
ends: its standard input is a pipe that nobody writes to, and that closes then.
"""

import contextlib
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil

from stakes.files import PRIVATE_FOLDER, make_folder, private, write_text
from stakes.rows import INCOMPLETE

STAKES: Sequence[str] = (sys.executable, "-m", "stakes.runs.process")
POLL, GRACE = 0.2, 15.0  # seconds
TOKEN = ".token"  # in DIR/cells: who reads it there sees the folder of the benchmark


@dataclass(frozen=True)
class Work:
    """What a machine has to know to run a cell.

    Attributes:
        name: of the cell.
        words: the command line after ``stakes``.
        out: folder of the benchmark, absolute.
        facts: what the cell's record says from the start: command, fingerprint, version.
        environment: what the process has beside the environment there.
        cwd: where relative paths begin.
        token: what DIR/cells/.token says; where it says something else, or is not there, the
            folder is not shared, and the files go back with the result.
        lock: a descriptor for the process to hold; of this machine alone.
    """

    name: str
    words: tuple[str, ...]
    out: str
    facts: Mapping[str, object]
    environment: Mapping[str, str]
    cwd: str
    token: str = ""
    lock: int | None = None

    def path(self, suffix: str) -> Path:
        """The file of that kind in DIR/cells."""
        return Path(self.out) / "cells" / f"{self.name}.{suffix}"

    @property
    def result(self) -> Path:
        """The folder that the cell writes."""
        return Path(self.out) / "runs" / self.name

    def note(self, state: str, **more: object) -> None:
        """Write the record of the cell."""
        text = json.dumps({**self.facts, "state": state, **more}, indent=1)
        write_text(self.path("json"), text + "\n")


@dataclass(frozen=True)
class Ended:
    """How a cell went.

    Attributes:
        code: the exit code of its process; below zero, the signal that killed it.
        seconds: it took.
        peak: most memory seen, MiB.
        stopped: whether it was asked to stop.
        last: the last line that it printed.
        files: what it wrote, by paths from DIR on; empty where the folder is shared.
    """

    code: int
    seconds: float
    peak: float
    stopped: bool
    last: str
    files: Mapping[str, bytes] = field(default_factory=dict)


class Look(NamedTuple):
    """How a running cell stands: seconds so far, most memory seen in MiB, and its last line."""

    seconds: float
    peak: float
    last: str


class Running:
    """A cell whose process is at work here."""

    def __init__(self, work: Work) -> None:
        self.work, self.start, self.peak = work, time.monotonic(), 0.0
        self.stopped = threading.Event()
        words = [*STAKES, *work.words]
        held = {"pass_fds": [work.lock]} if work.lock is not None else {}
        with open(work.path("log"), "wb", opener=private) as output:
            self.process = subprocess.Popen(  # type: ignore[call-overload]
                words,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | work.environment | {"PYTHONUNBUFFERED": "1"},
                cwd=work.cwd if Path(work.cwd).is_dir() else None,
                process_group=0,  # Ctrl-C comes to us alone, once, and we pass it on
                **held,  # a cell that outlives us keeps the folder locked
            )

    @property
    def seconds(self) -> float:
        """Wall-clock seconds since it began."""
        return time.monotonic() - self.start

    def look(self) -> Look:
        """How it stands."""
        return Look(self.seconds, self.peak, last_line(self.work.path("log")))

    def wait(self) -> int:
        """Take note of its memory until it ends, or has to; gives the exit code."""
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return int(self.process.wait(POLL))
            with contextlib.suppress(psutil.NoSuchProcess):
                first = psutil.Process(self.process.pid)
                held = sum(p.memory_info().rss for p in [first, *first.children(recursive=True)])
                self.peak = max(self.peak, held / 2**20)
            if self.stopped.is_set():
                return self._interrupt()

    def signal(self, number: int) -> None:
        """Send it, and all that it has started, a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def _interrupt(self) -> int:
        """Interrupt it; what does not end in time is killed."""
        self.signal(signal.SIGINT)
        try:
            return int(self.process.wait(GRACE))
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            return int(self.process.wait())


_RUNNING: dict[tuple[str, str], Running] = {}


def run_cell(work: Work) -> Ended:
    """Run a cell here and write its record, or give back its files where DIR is not shared."""
    shared = _token(work) == work.token
    for folder in (work.path("json").parent, work.result.parent):
        make_folder(folder, PRIVATE_FOLDER)
    work.note("running")
    running = Running(work)
    key = (work.out, work.name)
    _RUNNING[key] = running
    try:
        code = running.wait()
    finally:
        del _RUNNING[key]
    took, peak, last = running.look()
    stopped = running.stopped.is_set()
    if not stopped:
        state = "finished" if code in (0, INCOMPLETE) else "failed"
        work.note(state, exit_code=code, seconds=took, memory_mb=peak)
    return Ended(code, took, peak, stopped, last, {} if shared else _taken(work))


def looks(out: str) -> dict[str, Look]:
    """How the cells of a benchmark stand that run in this process: name -> look."""
    return {name: item.look() for (of, name), item in [*_RUNNING.items()] if of == out}


def stop(out: str, number: int | None = None) -> None:
    """Stop the benchmark's cells that run in this process: interrupt, later kill, or by a signal.

    It does not wait for them; ``looks`` says which of them are left.
    """
    for item in [item for (of, _), item in [*_RUNNING.items()] if of == out]:
        item.stopped.set()
        if number is not None:
            item.signal(number)


def last_line(path: Path) -> str:
    """The last line of a file that is not blank."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


def _token(work: Work) -> str:
    try:
        return (Path(work.out) / "cells" / TOKEN).read_text(encoding="utf-8")
    except OSError:
        return ""


def _taken(work: Work) -> dict[str, bytes]:
    """What the cell wrote, by paths from DIR on; it is not left here."""
    top = Path(work.out)
    paths = [work.path("json"), work.path("log"), *work.result.rglob("*")]
    files = {
        path.relative_to(top).as_posix(): path.read_bytes() for path in paths if path.is_file()
    }
    for path in paths[:2]:
        path.unlink()
    shutil.rmtree(work.result, ignore_errors=True)
    return files


def _end_with_parent() -> None:
    """Wait until whoever started this process is gone, then end politely."""
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    runpy.run_module("stakes", run_name="__main__", alter_sys=True)
