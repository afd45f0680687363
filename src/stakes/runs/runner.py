"""Cells of a benchmark: which are finished, running the others, and the account of it.

Each cell is a process of its own (see :mod:`stakes.runs.process`); where it runs is for the pool to
say (see :mod:`stakes.runs.pool`). A cell that failed is recorded in DIR/failed/CELL.txt.
"""

import json
import os
import shlex
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any, TextIO

import psutil
from safetensors import SafetensorError
from safetensors.torch import load_file

from stakes.errors import InputError, first_line
from stakes.files import hidden, tensor_digest, write_bytes, write_text
from stakes.manifest import MANIFEST
from stakes.report.formats import duration
from stakes.report.run_reader import read_run
from stakes.rows import INCOMPLETE
from stakes.runs.cell import Cell
from stakes.runs.pool import Pool
from stakes.runs.process import TOKEN, Ended, Look, Work
from stakes.texts import printable

HEARTBEAT = 30.0  # seconds
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
    if not (folder / MANIFEST).is_file():
        return "its manifest.json is missing: removed, or an earlier version wrote none"
    if not run.forget:
        return "its evidence.json is missing or says nothing of the images"
    if tensor_digest(tensors) != row.get("unlearned_digest"):
        return "its model.safetensors is not the one that was scored"
    return None


class Runner:
    """Runs the cells that are not finished, and keeps the account.

    Attributes:
        todo: the cells that had to be run.
        done: those of them that have been run, well or not.
        failed: those that failed.
    """

    def __init__(self, cells: Sequence[Cell], out: Path, log: TextIO) -> None:
        self.cells, self.out, self._log = list(cells), out, log
        self._top = str(out.resolve())
        self.todo: list[Cell] = []
        self.done: list[Cell] = []
        self.failed: list[Cell] = []
        self._looks: dict[str, Look] = {}
        self._at_once = 1
        self._seconds: list[tuple[Cell, float]] = []

    def run(self, pool: Pool) -> None:
        """Run them all there; on an exception, such as Ctrl-C, stop the running ones first.

        Raises:
            ConnectionError: the pool was lost, and with it the cells that it was running.
        """
        self._choose(pool)
        token = os.urandom(16).hex()
        write_text(self.out / "cells" / TOKEN, token)
        pending: dict[Future[Ended], Cell] = {}
        try:
            for cell in self.todo:
                pending[pool.submit(self._work(cell, token))] = cell
            self._follow(pool, pending)
        finally:
            self._stop(pool, pending)

    def _choose(self, pool: Pool) -> None:
        """Which cells there are to run, and why."""
        for cell in self.cells:
            reason = unfinished(cell, self.out)
            if reason is None:
                self._seconds.append((cell, float(read_record(cell, self.out).get("seconds", 0))))
            else:
                self.todo.append(cell)
                if reason != "not run yet":
                    self._say(f"{cell.name}: to be run again, {reason}")
        self._say(
            f"{len(self.cells)} cells, {len(self.cells) - len(self.todo)} finished before, "
            f"{len(self.todo)} to run, {pool.words}"
        )

    def _work(self, cell: Cell, token: str) -> Work:
        facts = {"command": command(cell, self.out), "fingerprint": cell.fingerprint()}
        return Work(
            cell.name,
            tuple(cell.arguments(self.out / "runs" / cell.name)),
            self._top,
            facts | {"version": VERSION},
            {},
            str(Path.cwd()),
            token,
        )

    def _follow(self, pool: Pool, pending: dict[Future[Ended], Cell]) -> None:
        """Say what happens until all have ended."""
        heard = time.monotonic()
        while pending:
            self._at_once = pool.slots()
            ended, _ = wait(pending, pool.every, FIRST_COMPLETED)
            for future in ended:
                cell = pending.pop(future)
                if future.cancelled():
                    raise ConnectionError("the scheduler is lost")
                self._finish(cell, future)
            looks = pool.looks(self._top) if pending else {}
            for name in looks.keys() - self._looks.keys():
                self._say(f"{self._head(name)}: started")
            self._looks = looks
            if time.monotonic() - heard > HEARTBEAT:
                heard = time.monotonic()
                for name, look in looks.items():
                    self._say(f"{name}: {_used(look)}" + (f"; {look.last}" if look.last else ""))
                if pending and not looks:
                    self._say(f"{len(pending)} cells wait for a place to run")

    def _finish(self, cell: Cell, future: Future[Ended]) -> None:
        self.done.append(cell)
        error = future.exception()
        if error is None:
            ended = future.result()
            self._take(ended.files)
            reason = _ending(ended.code) or unfinished(cell, self.out)
        else:  # the machine itself failed, or could not begin
            ended = Ended(-1, 0.0, 0.0, False, "")
            reason = f"it could not be run: {type(error).__name__}: {first_line(error)}"
        note = self.out / "failed" / f"{cell.name}.txt"
        used = _used(Look(ended.seconds, ended.peak, ended.last))
        if reason is None:
            note.unlink(missing_ok=True)
            self._seconds.append((cell, ended.seconds))
            self._say(f"{self._head(cell.name)}: done in {used}{self._time_left()}")
            return
        self.failed.append(cell)
        facts = read_record(cell, self.out) | {"state": "failed"}
        write_text(self._path(cell, "json"), json.dumps(facts, indent=1) + "\n")
        self._note_failure(note, cell, f"{reason} after {used}")
        self._say(f"{self._head(cell.name)}: FAILED ({reason}) after {used}; {ended.last}")

    def _take(self, files: Mapping[str, bytes]) -> None:
        """Put what came from a machine without this folder where it belongs, the record last."""
        results = {name: data for name, data in files.items() if name.startswith("runs/")}
        for place in {self.out / "runs" / Path(name).parts[1] for name in results}:
            arriving = hidden(place, "arriving")
            shutil.rmtree(arriving, ignore_errors=True)
            for name, data in results.items():
                write_bytes(arriving / Path(*Path(name).parts[2:]), data)
            shutil.rmtree(place, ignore_errors=True)
            arriving.rename(place)
        for name in sorted(files.keys() - results.keys(), reverse=True):
            write_bytes(self.out / name, files[name])

    def _note_failure(self, path: Path, cell: Cell, reason: str) -> None:
        log = self._path(cell, "log")
        lines = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        last = "\n".join(lines.splitlines()[-LAST_LINES:])
        write_text(path, f"{command(cell, self.out)}\n{reason}\n\n{last}\n")

    def _time_left(self) -> str:
        """An estimate from the cells most like those that are left."""
        left = [cell for cell in self.todo if cell not in self.done]
        if not left:
            return ""
        running = {cell.name for cell in left}
        spent = sum(look.seconds for name, look in self._looks.items() if name in running)
        needed = max(sum(self._expected(cell) for cell in left) - spent, 0.0)
        at_once = max(1, min(self._at_once, len(left)))
        return f"; {len(left)} left, about {_span(needed / at_once)}"

    def _expected(self, cell: Cell) -> float:
        """Seconds that the cells most like this one took, on average."""
        for alike in (("network", "method", "k"), ("method", "k"), ("method",), ()):
            wanted = [getattr(cell, key) for key in alike]
            took = [s for c, s in self._seconds if [getattr(c, key) for key in alike] == wanted]
            if took:
                return fmean(took)
        return 0.0

    def _stop(self, pool: Pool, pending: Mapping[Future[Ended], Cell]) -> None:
        """Stop what still runs, asking first; asked again, at once."""
        number: int | None = None
        left = {future for future in pending if not future.done()}
        while left:
            try:
                pool.stop(self._top, number)
                for future in left:
                    future.cancel()
                ended, _ = wait([future for future in left if not future.done()], 1.0)
                for future in ended:
                    if future.exception() is None:
                        self._say(f"{pending[future].name}: stopped")
                left = {future for future in left if not future.done()}
            except KeyboardInterrupt:
                number = signal.SIGKILL

    def _path(self, cell: Cell, suffix: str) -> Path:
        return self.out / "cells" / f"{cell.name}.{suffix}"

    def _head(self, name: str) -> str:
        number = next(i for i, cell in enumerate(self.todo, 1) if cell.name == name)
        return f"[{number}/{len(self.todo)}] {name}"

    def _say(self, text: str) -> None:
        print(printable(text), file=self._log, flush=True)


def read_record(cell: Cell, out: Path) -> dict[str, Any]:
    """What was noted about the cell; nothing where there is no readable note."""
    try:
        record = json.loads((out / "cells" / f"{cell.name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _ending(code: int) -> str | None:
    """What the exit code of a process means; None for one that wrote its result."""
    if code in (0, INCOMPLETE):
        return None  # the table tells what was not forgotten
    if code > 0:
        return f"exit code {code}"
    killed = f"killed by {signal.Signals(-code).name}"
    return f"{killed}, perhaps for want of memory" if code == -signal.SIGKILL else killed


def _used(look: Look) -> str:
    free = psutil.virtual_memory().available / 2**20
    return f"{_span(look.seconds)}, at most {look.peak:,.0f} MiB ({free:,.0f} MiB free)"


def _span(seconds: float) -> str:
    return duration(seconds).replace("\u00a0", " ")
