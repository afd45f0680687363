"""A Dask cluster for the cells of a benchmark: each is a task, and a process of its own there.

Nothing is kept by the cluster: what a cell has written is in the folder of the benchmark, shared or
sent back, and the next start looks there alone.
"""

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from stakes.errors import InputError, first_line, some
from stakes.runs import process
from stakes.runs.process import Ended, Look, Work
from stakes.runs.threads import cores
from stakes.texts import expanded, read_text

#: Seconds for a scheduler to answer, for earlier cells to end, for a worker with what is needed.
ANSWER, LEAVE, COME = 10.0, 30.0, 60.0
LOCAL = "local"
#: What Dask's client raises once the scheduler is lost: it closes, and is then without one.
LOST = (OSError, RuntimeError, AttributeError)


class Cluster:
    """The workers of a Dask scheduler.

    Args:
        client: connected to it.
        address: of it, for people.
        need: what each cell takes of a worker's resources.
        threads: of each cell; the same wherever it runs, since the bits depend on it.
    """

    every = 2.0

    def __init__(self, client: Any, address: str, need: Mapping[str, float], threads: str) -> None:
        self._client, self._need = client, dict(need)
        self._environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        self._executor = client.get_executor(pure=False, resources=self._need or None)
        self.words = f"{self.slots()} at once with {threads} threads each, by Dask at {address}"

    def slots(self) -> int:
        """Threads of the workers, or fewer where what a cell needs is scarce.

        Raises:
            ConnectionError: the scheduler is lost.
        """
        workers = _workers(self._client)
        counts = [sum(worker["nthreads"] for worker in workers)]
        for name, amount in self._need.items():
            counts.append(sum(int(w["resources"].get(name, 0) // amount) for w in workers))
        return int(min(counts))

    def submit(self, work: Work) -> "Future[Ended]":
        """Run a cell on some worker; on another one where that is lost."""
        future: Future[Ended] = self._executor.submit(
            process.run_cell, replace(work, environment=self._environment)
        )
        return future

    def looks(self, out: str) -> dict[str, Look]:
        """How the cells stand, of all workers that answer."""
        answers = self._ask(process.looks, out)
        return {name: look for found in answers.values() for name, look in found.items()}

    def stop(self, out: str, number: int | None = None) -> None:
        """Stop those that run; no other begins."""
        with contextlib.suppress(*LOST):
            self._executor.shutdown(wait=False)
        self._ask(process.stop, out, number)

    def clear(self, out: str) -> None:
        """Stop what an earlier client of this folder, now dead, has left running."""
        deadline = time.monotonic() + LEAVE
        while self.looks(out) and time.monotonic() < deadline:
            self._ask(process.stop, out)
            time.sleep(0.5)

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """What each worker answers; nothing where the scheduler is lost."""
        with contextlib.suppress(*LOST):
            answers: dict[str, Any] = self._client.run(function, *arguments, on_error="ignore")
            return answers
        return {}


@contextlib.contextmanager
def connected(
    address: str,
    need: Sequence[str],
    places: Sequence[Mapping[str, str]],
    threads: str | None,
    log: TextIO,
) -> Iterator[Cluster]:
    """Connect to a scheduler within the block, once it has a worker that can run cells.

    Args:
        address: ``local`` (a cluster of this machine, for the block alone), tcp://HOST:PORT,
            tls://HOST:PORT, or the file that a scheduler wrote.
        need: NAME=AMOUNT of a worker's resources for each cell.
        places: the workers of a local cluster: what each adds to its environment.
        threads: of each cell; by default the cores of the smallest worker, shared out.
        log: where it says that there is no worker yet.

    Raises:
        InputError: Dask is not installed, no scheduler answers, a worker has another stakes, or
            none offers what a cell needs.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError('--cluster needs Dask: pip install "stakes[cluster]"') from error
    asked = dict(map(_amount, need))
    for name in list(logging.root.manager.loggerDict):  # each of Dask's has a level of its own
        if name.startswith("distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters is said by us
    with contextlib.ExitStack() as stack:
        where: dict[str, Any] = {"address": address}
        if address == LOCAL:
            where = {"address": stack.enter_context(_local(places))}
        elif "://" not in address:
            where = {"scheduler_file": str(Path(address).expanduser())}
        try:
            client = Client(**where, timeout=ANSWER, set_as_default=False)
            stack.enter_context(client)
        except Exception as error:  # Dask raises nearly anything
            raise InputError(
                f"--cluster {address}: no scheduler answers ({first_line(error)}); start one by "
                "`dask scheduler`"
            ) from error
        _wait_for_workers(client, address, asked, log)
        yield Cluster(client, address, asked, threads or _threads(client))


@contextlib.contextmanager
def _local(places: Sequence[Mapping[str, str]]) -> Iterator[Any]:
    """A cluster on this machine, reachable from it alone: a worker for each place."""
    from distributed import Nanny, Scheduler, SpecCluster

    workers = {
        i: {
            "cls": Nanny,
            "options": {
                "nthreads": 1,
                "host": "127.0.0.1",
                "env": dict(place),
                "resources": {"GPU": 1} if "CUDA_VISIBLE_DEVICES" in place else {},
                "dashboard": False,
                "silence_logs": logging.WARNING,  # a worker notes each time it is asked
            },
        }
        for i, place in enumerate(places)
    }
    options = {"host": "127.0.0.1", "port": 0, "dashboard": False}
    scheduler = {"cls": Scheduler, "options": options}
    with SpecCluster(workers=workers, scheduler=scheduler, silence_logs=False) as cluster:
        yield cluster


def _wait_for_workers(client: Any, address: str, need: Mapping[str, float], log: TextIO) -> None:
    """Wait until there is a worker, and say what is missing meanwhile.

    Raises:
        InputError: a worker has another stakes, or none; or no worker offers what a cell needs,
            and none comes within a minute.
    """
    if not _workers(client):
        print(f"no workers yet: start some by `dask worker {address}`", file=log, flush=True)
        client.wait_for_workers(1)
    own = version("stakes")
    for place, found in client.run(version, "stakes", on_error="return").items():
        if found != own:
            said = first_line(found) if isinstance(found, BaseException) else f"stakes {found}"
            raise InputError(
                f"worker {place} has {said}, but this machine has stakes {own}: install that there"
            )
    wait, advice = COME, f'start one by `dask worker {address} --resources "{_listed(need)}"`, or '
    if address == LOCAL:  # its workers are all there
        wait, advice = 0.0, ""
    said, deadline = "", time.monotonic() + wait
    while lacking := _lacking(_workers(client), need):
        lacking += f"; {advice}leave --need out"
        if time.monotonic() >= deadline:
            raise InputError(lacking)
        if lacking != said:
            print(f"{lacking} (waiting {wait:g} s)", file=log, flush=True)
        said = lacking
        time.sleep(0.5)


def _lacking(workers: Sequence[Mapping[str, Any]], need: Mapping[str, float]) -> str:
    """Says that no worker offers what a cell needs, and what they have; empty where one does."""
    if any(all(w["resources"].get(n, 0) >= least for n, least in need.items()) for w in workers):
        return ""
    offered = some(sorted({_listed({n: a}) for w in workers for n, a in w["resources"].items()}))
    return f"--need {_listed(need)}: no worker offers that, they have {offered or 'no resources'}"


def _listed(resources: Mapping[str, float]) -> str:
    return " ".join(f"{name}={amount:g}" for name, amount in resources.items())


def _workers(client: Any) -> list[dict[str, Any]]:
    """The workers there are now.

    Raises:
        ConnectionError: the scheduler is lost.
    """
    found = client.scheduler_info(n_workers=-1)
    if "workers" not in found:  # the client has closed
        raise ConnectionError("the scheduler is lost")
    return list(found["workers"].values())


def check_cluster(address: str, need: Sequence[str]) -> None:
    """Refuse words that cannot name a scheduler, or a worker's resources.

    Raises:
        InputError: they are of another form, or there is no such file.
    """
    for text in need:
        _amount(text)
    if address == LOCAL or "://" in address:
        return
    file = expanded(address)
    try:
        if not isinstance(json.loads(read_text(file, "--cluster"))["address"], str):
            raise TypeError("its address is no text")
    except (InputError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(
            f"--cluster {address}: no such file of a scheduler; give local, tcp://HOST:PORT, or "
            "the file that `dask scheduler --scheduler-file FILE` wrote"
        ) from error


def _threads(client: Any) -> str:
    """Threads of a cell for which every worker has the cores, with all its tasks at once."""
    counts, tasks = client.run(cores), client.nthreads()
    return str(max(1, min(counts[place] // tasks[place] for place in counts)))


def _amount(text: str) -> tuple[str, float]:
    """NAME=AMOUNT.

    Raises:
        InputError: something else.

    >>> _amount("GPU=1")
    ('GPU', 1.0)
    """
    name, _, number = text.partition("=")
    with contextlib.suppress(ValueError):
        if name and float(number) > 0:
            return name, float(number)
    raise InputError(f"--need {text}: give NAME=AMOUNT, such as GPU=1")
