"""Progress of long work: bars with the time left on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import Protocol, Self, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Report(Protocol):
    """Called as work goes on: the phase's name, units done, units in all, and a short note."""

    def __call__(self, phase: str, done: int, total: int, note: str = "") -> None:
        """Say how far the phase has come."""
        ...


def silent(phase: str, done: int, total: int, note: str = "") -> None:
    """Report nothing."""


class Terminal:
    """A :class:`Report` for people: bars on a terminal, else a line every few seconds.

    Args:
        stream: where to write; standard error by default, so that output can be piped.
        every: seconds between two plain lines of one phase.
    """

    def __init__(self, stream: TextIO | None = None, every: float = 10.0) -> None:
        self._stream = stream or sys.stderr
        self._every = every
        self._bars = self._make_bars() if self._stream.isatty() else None
        self._tasks: dict[str, TaskID] = {}
        self._last: dict[str, float] = {}
        self._start: dict[str, float] = {}

    def _make_bars(self) -> Progress:
        return Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left at most"),
            TimeRemainingColumn(),
            console=Console(file=self._stream),
        )

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, phase: str, done: int, total: int, note: str = "") -> None:
        """Move the bar of the phase, or print its line."""
        if self._bars is not None:
            if phase not in self._tasks:
                self._tasks[phase] = self._bars.add_task(phase, total=total, note=note)
            self._bars.update(self._tasks[phase], completed=done, total=total, note=note)
            return
        now = time.monotonic()
        first = phase not in self._start
        start = self._start.setdefault(phase, now)
        if not first and done < total and now - self._last[phase] < self._every:
            return
        self._last[phase] = now
        text = f"{phase}: {done}/{total}" + (f", {note}" if note else "")
        if 0 < done < total and now - start > 1:
            text += f", at most {(now - start) / done * (total - done):.0f} s left"
        print(text, file=self._stream, flush=True)
