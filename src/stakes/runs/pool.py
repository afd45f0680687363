"""Where the cells of a benchmark run: what the runner asks of such a place, and this machine."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue
from typing import Protocol

from stakes.runs import process
from stakes.runs.process import Ended, Look, Work


class Pool(Protocol):
    """Where cells run.

    Attributes:
        every: seconds between two looks at them.
        words: what it is, for people.
    """

    every: float
    words: str

    def slots(self) -> int:
        """Cells that run at once, now."""
        ...

    def submit(self, work: Work) -> Future[Ended]:
        """Run a cell as soon as there is room; cancelled where the pool itself is lost."""
        ...

    def looks(self, out: str) -> dict[str, Look]:
        """How the benchmark's cells stand that run now, by name."""
        ...

    def stop(self, out: str, number: int | None = None) -> None:
        """Tell the benchmark's cells to stop: interrupt, later kill, or by a signal."""
        ...


class Here:
    """This machine: a thread waits for each cell, in one of so many places.

    Args:
        places: what each adds to the environment: threads, and a GPU.
        lock: a descriptor that each cell holds.
    """

    every = 0.5

    def __init__(self, places: Sequence[dict[str, str]], lock: int) -> None:
        self._places, self._lock = places, lock
        self._free = SimpleQueue[dict[str, str]]()
        for place in places:
            self._free.put(place)
        self._threads = ThreadPoolExecutor(len(places))
        self.words = f"{len(places)} at once with {places[0]['OMP_NUM_THREADS']} threads each"

    def slots(self) -> int:
        """Its places."""
        return len(self._places)

    def submit(self, work: Work) -> Future[Ended]:
        """Run a cell in the next free place."""
        return self._threads.submit(self._run, work)

    def looks(self, out: str) -> dict[str, Look]:
        """How the cells stand."""
        return process.looks(out)

    def stop(self, out: str, number: int | None = None) -> None:
        """Stop those that run; no other begins."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        process.stop(out, number)

    def _run(self, work: Work) -> Ended:
        place = self._free.get()
        try:
            return process.run_cell(replace(work, environment=place, lock=self._lock))
        finally:
            self._free.put(place)
