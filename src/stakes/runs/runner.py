"""Cells of a benchmark as processes: what is finished, running several at once, stopping.

DIR/runs/CELL is what ``stakes unlearn`` wrote, DIR/cells/CELL.json says how the cell went and
DIR/cells/CELL.log what it printed. A cell that failed is recorded in DIR/failed/CELL.txt.
"""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any, TextIO

import psutil
from safetensors import SafetensorError
from safetensors.torch import load_file

from stakes.errors import InputError
from stakes.files import private, tensor_digest, write_text
from stakes.report.formats import duration
from stakes.report.run_folder import read_run
from stakes.runs.recipe import Cell
from stakes.runs.sound import INCOMPLETE

STAKES = (sys.executable, "-m", "stakes")
POLL, HEARTBEAT, GRACE = 0.2, 30.0, 15.0  # seconds
LAST_LINES = 20
VERSION = version("stakes")


def command(cell: Cell, out: Path) -> str:
    """The command line that repeats the cell."""
    return shlex.join(["stakes", *cell.arguments(out / "runs" / cell.name)])


def unfinished(cell: Cell, out: Path) -> str | None:
    """Why the cell has to be run; None where its result is there, whole, and of these options."""
    record = read_record(cell, out)
    if record.get("state") != "finished":
        return {"failed": "failed before", "running": "was stopped"}.get(
            str(record.get("state")), "not run yet"
        )
    if record.get("fingerprint") != cell.fingerprint():
        return "the recipe has changed, or a file that it names"
    if record.get("version", VERSION) != VERSION:
        return f"it was made by stakes {record['version']}"
    folder = out / "runs" / cell.name
    try:
        run = read_run(folder)
        row, tensors = run.row, load_file(folder / "model.safetensors")
    except (InputError, OSError, SafetensorError, ValueError) as error:
        return f"its result cannot be read: {' '.join(str(error).split())}"
    if not run.forget:
        return "its evidence.json is missing or says nothing of the images"
    if tensor_digest(tensors) != row.get("unlearned_digest"):
        return "its model.safetensors is not the one that was scored"
    return None


@dataclass
class Running:
    """A cell that is being run.

    Attributes:
        number: of the cell among those to run.
        place: which of the places for cells it has.
        facts: what its record says from the start: the command and the fingerprint.
        start: monotonic seconds.
        peak: most memory seen, MiB.
    """

    cell: Cell
    number: int
    place: int
    facts: Mapping[str, object]
    process: subprocess.Popen[bytes]
    start: float = field(default_factory=time.monotonic)
    peak: float = 0.0

    @property
    def seconds(self) -> float:
        """Wall-clock seconds since it began."""
        return time.monotonic() - self.start

    def weigh(self) -> None:
        """Take note of the memory that its processes hold now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(self.process.pid)
            held = sum(p.memory_info().rss for p in [first, *first.children(recursive=True)])
            self.peak = max(self.peak, held / 2**20)


class Runner:
    """Runs the cells that are not finished, several at once, and keeps the account.

    Attributes:
        todo: the cells that had to be run.
        done: those of them that have been run, well or not.
        failed: those that failed.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        out: Path,
        places: Sequence[dict[str, str]],
        lock: int,
        log: TextIO,
    ) -> None:
        self.cells, self.out, self.places = list(cells), out, list(places)
        self._lock, self._log = lock, log
        self.todo: list[Cell] = []
        self.done: list[Cell] = []
        self.failed: list[Cell] = []
        self._running: list[Running] = []
        self._seconds: list[tuple[Cell, float]] = []

    def run(self) -> None:
        """Run them all; on an exception, such as Ctrl-C, stop the running ones first."""
        for cell in self.cells:
            reason = unfinished(cell, self.out)
            if reason is None:
                self._seconds.append((cell, float(read_record(cell, self.out).get("seconds", 0))))
            else:
                self.todo.append(cell)
                if reason != "not run yet":
                    self._say(f"{cell.name}: to be run again, {reason}")
        threads = self.places[0]["OMP_NUM_THREADS"]
        self._say(
            f"{len(self.cells)} cells, {len(self.cells) - len(self.todo)} finished before, "
            f"{len(self.todo)} to run, {len(self.places)} at once with {threads} threads each"
        )
        waiting = list(enumerate(self.todo, 1))
        free = list(range(len(self.places)))
        heard = time.monotonic()
        try:
            while waiting or self._running:
                while waiting and free:
                    self._start(*waiting.pop(0), free.pop(0))
                time.sleep(POLL)
                for item in list(self._running):
                    item.weigh()
                    if item.process.poll() is not None:
                        self._running.remove(item)
                        free.append(item.place)
                        self._finish(item)
                if time.monotonic() - heard > HEARTBEAT:
                    heard = time.monotonic()
                    for item in self._running:
                        self._say(f"{item.cell.name}: {_used(item)}; {self._last_line(item.cell)}")
        finally:
            self._stop()

    def _start(self, number: int, cell: Cell, place: int) -> None:
        folder = self.out / "runs" / cell.name
        facts = {"command": command(cell, self.out), "fingerprint": cell.fingerprint()}
        facts["version"] = VERSION
        self._write(cell, facts, state="running")
        self._say(f"[{number}/{len(self.todo)}] {cell.name}: started")
        with open(self._path(cell, "log"), "wb", opener=private) as output:
            process = subprocess.Popen(
                [*STAKES, *cell.arguments(folder)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | self.places[place] | {"PYTHONUNBUFFERED": "1"},
                process_group=0,  # Ctrl-C comes to us alone, once, and we pass it on
                pass_fds=[self._lock],  # a cell that outlives us keeps the folder locked
            )
        self._running.append(Running(cell, number, place, facts, process))

    def _finish(self, item: Running) -> None:
        cell, code = item.cell, item.process.returncode
        self.done.append(cell)
        facts = {"exit_code": code, "seconds": item.seconds, "memory_mb": item.peak}
        done = code in (0, INCOMPLETE)  # the table tells what was not forgotten
        self._write(cell, item.facts, state="finished" if done else "failed", **facts)
        reason = unfinished(cell, self.out) if done else _ending(code)
        head = f"[{item.number}/{len(self.todo)}] {cell.name}"
        note = self.out / "failed" / f"{cell.name}.txt"
        if reason is None:
            note.unlink(missing_ok=True)
            self._seconds.append((cell, item.seconds))
            self._say(f"{head}: done in {_used(item)}{self._time_left()}")
            return
        self.failed.append(cell)
        self._write(cell, item.facts, state="failed", **facts)
        self._note_failure(note, item, reason)
        self._say(f"{head}: FAILED ({reason}) after {_used(item)}; {self._last_line(cell)}")

    def _note_failure(self, path: Path, item: Running, reason: str) -> None:
        lines = self._path(item.cell, "log").read_text(encoding="utf-8", errors="replace")
        last = "\n".join(lines.splitlines()[-LAST_LINES:])
        said = f"{command(item.cell, self.out)}\n{reason} after {_used(item)}\n\n{last}\n"
        write_text(path, said)

    def _time_left(self) -> str:
        """An estimate from the cells most like those that are left."""
        left = [cell for cell in self.todo if cell not in self.done]
        if not left:
            return ""
        spent = sum(item.seconds for item in self._running)
        needed = max(sum(self._expected(cell) for cell in left) - spent, 0.0)
        return f"; {len(left)} left, about {_span(needed / min(len(self.places), len(left)))}"

    def _expected(self, cell: Cell) -> float:
        """Seconds that the cells most like this one took, on average."""
        for alike in (("network", "method", "k"), ("method", "k"), ("method",), ()):
            wanted = [getattr(cell, key) for key in alike]
            took = [s for c, s in self._seconds if [getattr(c, key) for key in alike] == wanted]
            if took:
                return fmean(took)
        return 0.0

    def _stop(self) -> None:
        """Interrupt what still runs; what does not end in time is killed."""
        for item in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(item.process.pid, signal.SIGINT)
        deadline = time.monotonic() + GRACE
        for item in self._running:
            try:
                item.process.wait(max(0.0, deadline - time.monotonic()))
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(item.process.pid, signal.SIGKILL)
                item.process.wait()
            self._say(f"{item.cell.name}: stopped after {_used(item)}")

    def _write(self, cell: Cell, facts: Mapping[str, object], **more: object) -> None:
        write_text(self._path(cell, "json"), json.dumps({**facts, **more}, indent=1) + "\n")

    def _path(self, cell: Cell, suffix: str) -> Path:
        return self.out / "cells" / f"{cell.name}.{suffix}"

    def _last_line(self, cell: Cell) -> str:
        text = self._path(cell, "log").read_text(encoding="utf-8", errors="replace")
        return next((line for line in reversed(text.splitlines()) if line.strip()), "")

    def _say(self, text: str) -> None:
        print(text, file=self._log, flush=True)


def read_record(cell: Cell, out: Path) -> dict[str, Any]:
    """What was noted about the cell; nothing where there is no readable note."""
    try:
        record = json.loads((out / "cells" / f"{cell.name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _ending(code: int) -> str:
    """What the exit code of a process means."""
    if code > 0:
        return f"exit code {code}"
    killed = f"killed by {signal.Signals(-code).name}"
    return f"{killed}, perhaps for want of memory" if code == -signal.SIGKILL else killed


def _used(item: Running) -> str:
    free = psutil.virtual_memory().available / 2**20
    return f"{_span(item.seconds)}, at most {item.peak:,.0f} MiB ({free:,.0f} MiB free)"


def _span(seconds: float) -> str:
    return duration(seconds).replace("\u00a0", " ")
