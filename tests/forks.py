"""``pytest --forks N``: run the tests in processes that are forked once all are collected.

Importing PyTorch and collecting takes ten seconds of a processor. Processes that start afresh, as
those of pytest-xdist do, each pay for it; forked ones have it all.
"""

import gc
import itertools
import multiprocessing
import os
import warnings
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

import pytest

FORK = "PYTEST_FORK"  # set in the processes
MOST = 40  # tests of one file that a process takes at a time
STOP = 10**9


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--forks",
        metavar="N",
        type=lambda text: _cores() + 1 if text == "auto" else int(text),
        default=0,
        help="run in N processes; auto: one more than cores, since some tests wait for others",
    )


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Share the collected tests among processes; the usual loop where none are asked for."""
    config = session.config
    count = config.option.forks if hasattr(os, "fork") else 0
    if not count or session.testsfailed or config.option.collectonly:
        return None
    together = Together(session)
    gc.freeze()  # what is there stays: looking at it would copy it
    try:
        for number in range(count):
            together.start(number)
        together.listen()
    finally:
        together.end()
        gc.unfreeze()
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    if session.shouldstop:
        raise session.Interrupted(session.shouldstop)
    return True


class Together:
    """The processes, what each has yet to run, and what they report."""

    def __init__(self, session: pytest.Session) -> None:
        self.session, self.config = session, session.config
        self.context = multiprocessing.get_context("fork")
        self.batches = batches(session.items)
        self.taken = self.context.Value("q", 0)  # batches that somebody has taken
        self.processes: dict[Connection, Any] = {}
        self.left: dict[Connection, dict[str, pytest.Item]] = {}
        self.config._tmp_path_factory.getbasetemp()  # one for all

    def start(self, number: int) -> None:
        """Fork a process."""
        ours, theirs = self.context.Pipe(duplex=False)
        arguments = (self.session, number, self.batches, self.taken, theirs)
        process = self.context.Process(target=work, args=arguments)
        process.start()
        theirs.close()
        self.processes[ours], self.left[ours] = process, {}

    def listen(self) -> None:
        """Hand on all reports, until no process is left."""
        while self.processes:
            for pipe in wait([*self.processes], timeout=1):
                with suppress(EOFError):
                    self.hear(pipe, *pipe.recv())
                    continue
                self.lost(pipe)
            for pipe, process in [*self.processes.items()]:  # its children may hold its pipe open
                if not process.is_alive() and not pipe.poll():
                    self.lost(pipe)

    def hear(self, pipe: Connection, kind: str, about: Any) -> None:
        """Hand on what one process says."""
        hook = self.config.hook
        if kind == "batch":
            self.left[pipe] |= {item.nodeid: item for item in self.batches[about]}
        elif kind == "warning":
            message, category, *where = about.pop("warning")
            about["warning_message"] = warnings.WarningMessage(
                message, type(category, (Warning,), {}), *where
            )
            hook.pytest_warning_recorded.call_historic(kwargs=about)
        else:
            report = hook.pytest_report_from_serializable(config=self.config, data=about)
            hook.pytest_runtest_logreport(report=report)
            if report.when == "teardown":
                del self.left[pipe][report.nodeid]
                hook.pytest_runtest_logfinish(nodeid=report.nodeid, location=report.location)
            if self.session.shouldfail or self.session.shouldstop:
                self.taken.value = STOP

    def lost(self, pipe: Connection) -> None:
        """A process has ended: what it had yet to run has failed, unless it was told to stop."""
        process = self.processes.pop(pipe)
        process.join()
        for item in self.left[pipe].values() if self.taken.value < STOP else ():
            said = f"its process ended with exit code {process.exitcode} before it, or by it"
            report = pytest.TestReport(item.nodeid, item.location, {}, "failed", said, "call")
            self.config.hook.pytest_runtest_logreport(report=report)

    def end(self) -> None:
        """Let the processes tidy up after the test that they are at."""
        self.taken.value = STOP
        for process in self.processes.values():
            process.join()


def batches(items: list[pytest.Item]) -> list[list[pytest.Item]]:
    """Tests of a file share its fixtures, so they stay together; of very many, some do."""
    files = [[*same] for _, same in itertools.groupby(items, key=lambda item: item.path)]
    return [file[i : i + MOST] for file in files for i in range(0, len(file), MOST)]


def work(session: pytest.Session, number: int, batches: Any, taken: Any, pipe: Connection) -> None:
    """Run batches that nobody has taken, until none is left; in a forked process."""
    config = session.config
    os.environ[FORK] = str(number)
    _apart(config, number)
    config.pluginmanager.register(Reporter(config, pipe))

    def items() -> Iterator[pytest.Item | None]:
        while True:
            with taken.get_lock():
                place = taken.value
                taken.value += 1
            if place >= len(batches):
                break
            pipe.send(("batch", place))
            for item in batches[place]:
                if taken.value >= STOP:
                    break
                yield item
        yield None

    try:
        for item, following in itertools.pairwise(items()):
            config.hook.pytest_runtest_protocol(item=item, nextitem=following)
    except KeyboardInterrupt:
        pass  # the process that waits for this one was told as well
    finally:
        session._setupstate.teardown_exact(None)


def _apart(config: pytest.Config, number: int) -> None:
    """Keep folders, captured output and the terminal apart from those of other processes."""
    folders = config._tmp_path_factory
    folders._basetemp = folders.getbasetemp() / f"fork{number}"
    folders._basetemp.mkdir()
    capture = config.pluginmanager.get_plugin("capturemanager")
    capture.stop_global_capturing()
    capture.start_global_capturing()
    capture.suspend_global_capture()
    config.pluginmanager.unregister(name="terminalreporter")


class Reporter:
    """Sends reports and warnings to the process that shows them."""

    def __init__(self, config: pytest.Config, pipe: Connection) -> None:
        self.config, self.pipe = config, pipe

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        self.pipe.send(("report", data))

    def pytest_warning_recorded(self, warning_message, when, nodeid, location) -> None:
        said = warning_message
        text = (str(said.message), said.category.__name__, said.filename, said.lineno)
        about = {"warning": text, "when": when, "nodeid": nodeid, "location": location}
        self.pipe.send(("warning", about))


def _cores() -> int:
    """Cores that this process may use, where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
