"""Progress of long work, bars on a terminal and plain lines elsewhere, and the time it took."""

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Any, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from stakes.texts import printable

EARLY = 0.25  # share of a budget below which no time left is told


class Progress(Protocol):
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

    def __init__(self, stream: IO[str] | None = None, every: float = 10.0) -> None:
        console = Console(file=stream or sys.stderr)
        fit = console.is_terminal and not console.is_dumb_terminal
        self._report: _Bars | _Lines = _Bars(console) if fit else _Lines(console.file, every)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._report.close()

    def __call__(self, phase: str, done: int, total: int, note: str = "") -> None:
        """Move the bar of the phase, or print its line."""
        self._report(phase, done, total, printable(note))


class _Bars:
    """A bar for each phase; the last one moves."""

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            TextColumn("{task.description}"), BarColumn(bar_width=12), _State(), console=console
        )
        self._tasks: dict[str, Task] = {}
        self._phase = ""

    def __call__(self, phase: str, done: int, total: int, note: str) -> None:
        if not self._tasks:
            self._bars.start()
        if phase not in self._tasks:
            self._bars.add_task(phase, total=total, note=note)
            self._tasks[phase] = self._bars.tasks[-1]
        task = self._tasks[phase]
        if done < task.completed:  # the phase has begun anew
            self._bars.reset(task.id, total=total)
        if phase != self._phase and self._phase:
            self._bars.stop_task(self._tasks[self._phase].id)
            task.stop_time = None
        self._phase = phase
        self._bars.update(task.id, completed=done, total=total, note=note)

    def close(self) -> None:
        if self._phase:
            self._bars.stop_task(self._tasks[self._phase].id)
        self._bars.stop()


class _State(ProgressColumn):
    """How much is done, the time left at most, since work may end early, and the note.

    Once a phase is over, the time it took. One column, since several would wrap when it is tight.
    """

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        parts = [f"{task.completed:.0f}/{task.total:.0f}"]
        if task.finished or task.stop_time is not None:
            parts.append(f"in {clock(task.finished_time or task.elapsed or 0)}")
        elif task.time_remaining is not None and worth_telling(task.completed, task.total):
            parts.append(f"at most {clock(task.time_remaining)} left")
        parts += [task.fields["note"]] if task.fields["note"] else []
        return Text(", ".join(parts), no_wrap=True, overflow="ellipsis")


class _Lines:
    """A line where a phase first begins, then every few seconds, and where work stood at its end.

    Phases may alternate: going back to one is no reason for a line.
    """

    def __init__(self, stream: IO[str], every: float) -> None:
        self._stream = stream
        self._every = every
        self._start: dict[str, tuple[float, int]] = {}
        self._said: dict[str, float] = {}
        self._done: dict[str, int] = {}
        self._unsaid = ""

    def __call__(self, phase: str, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        if phase not in self._start:
            self.close()
        if done < self._done.get(phase, done):  # the phase has begun anew
            self._start[phase] = now, done
        start, first = self._start.setdefault(phase, (now, done))
        self._done[phase] = done
        self._unsaid = f"{phase}: {done}/{total}" + (f", {note}" if note else "")
        if first < done < total and now - start > 1 and worth_telling(done, total):
            left = (now - start) / (done - first) * (total - done)
            self._unsaid += f", at most {clock(left)} left"
        if now - self._said.get(phase, -math.inf) >= self._every:
            self._said[phase] = now
            self.close()

    def close(self) -> None:
        if self._unsaid:
            print(self._unsaid, file=self._stream, flush=True)
        self._unsaid = ""


class Stopwatch:
    """Wall-clock seconds by phase; what a phase within another one takes is its own alone.

    Attributes:
        seconds: by phase so far.
        earlier: of these, seconds of an interrupted run that this one goes on from.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.earlier = 0.0
        self._phase: str | None = None
        self._since = 0.0

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the seconds of the block to ``phase``."""
        outer = self._turn_to(phase)
        try:
            yield
        finally:
            self._turn_to(outer)

    def _turn_to(self, phase: str | None) -> str | None:
        """Count what the phase so far took; gives its name."""
        before, now = self._phase, time.perf_counter()
        if before is not None:
            self.seconds[before] = self.seconds.get(before, 0.0) + now - self._since
        self._phase, self._since = phase, now
        return before

    def state_dict(self) -> dict[str, Any]:
        """The seconds by phase, up to now."""
        self._turn_to(self._phase)
        return dict(self.seconds)

    def load_state_dict(self, state: Mapping[str, float], /) -> None:
        """Count on from there; what was done again until now counts once."""
        self._turn_to(self._phase)
        self.earlier = sum(state.values()) - sum(self.seconds.values())
        self.seconds = dict(state)


def worth_telling(done: float, total: float | None) -> bool:
    """Whether the time left is worth telling.

    Most work ends long before its budget, and an estimate from the budget would only frighten.

    >>> worth_telling(48, 600), worth_telling(48, 60)
    (False, True)
    """
    return total is not None and done >= EARLY * total


def clock(seconds: float) -> str:
    """Minutes and seconds, hours where there are any.

    >>> clock(62.4), clock(7300)
    ('1:02', '2:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
