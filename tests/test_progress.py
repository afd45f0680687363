"""Plain lines and bars, with time under the test's control."""

import io
import re

import pytest

from stakes import progress
from stakes.progress import Terminal, clock, silent


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.fixture
def now(monkeypatch):
    """A clock that a test moves: now[0] in seconds."""
    moment = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: moment[0])
    return moment


def test_lines_at_the_start_every_ten_seconds_and_at_the_end(now):
    stream = Stream(terminal=False)
    with Terminal(stream) as report:
        for step in range(1, 33):
            report("unlearning", step, 100, f"{step} seen")
            now[0] += 1
        report("scoring", 1, 4)
        report("scoring", 2, 4)
        report("scoring", 4, 4)
    assert stream.getvalue().splitlines() == [
        "unlearning: 1/100, 1 seen",
        "unlearning: 11/100, 11 seen",  # of so early an estimate nothing holds
        "unlearning: 21/100, 21 seen",
        "unlearning: 31/100, 31 seen, at most 1:09 left",
        "unlearning: 32/100, 32 seen, at most 1:08 left",
        "scoring: 1/4",
        "scoring: 4/4",
    ]


def test_phases_that_alternate_are_not_a_line_each(now):
    stream = Stream(terminal=False)
    with Terminal(stream) as report:
        for step in range(1, 201):
            report("unlearning", step, 200)
            report("importance", 8, 8)
            now[0] += 0.1
    lines = stream.getvalue().splitlines()
    assert len(lines) < 8
    assert lines[0] == "unlearning: 1/200"
    assert lines[1] == "importance: 8/8"


def test_the_last_state_is_said_where_an_error_ends_the_work(now):
    stream = Stream(terminal=False)

    def work():
        with Terminal(stream) as report:
            report("unlearning", 1, 9)
            report("unlearning", 5, 9)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert stream.getvalue().splitlines()[-1] == "unlearning: 5/9"


def test_nothing_is_written_where_nothing_is_reported():
    for terminal in (False, True):
        stream = Stream(terminal)
        with Terminal(stream):
            pass
        assert stream.getvalue() == ""


@pytest.fixture
def bars(monkeypatch) -> Stream:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    return Stream(terminal=True)


def last_lines(text: str) -> list[str]:
    """The last image of the bars, without its colours."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.rpartition("\x1b[2K")[2])
    return [line.rstrip() for line in plain.replace("\r", "").splitlines() if line.strip()]


def test_bars_end_with_what_each_phase_took(bars):
    with Terminal(bars) as report:
        for done in (1, 40, 80):
            report("probes", done, 80)
        for done in (5, 10):
            report("unlearning", done, 1000000, "100 % still known")
        report("scoring test", 9, 9)
    probes, unlearning, scoring = last_lines(bars.getvalue())
    assert re.fullmatch(r"probes\s+━+ 80/80, in 0:00", probes)
    assert re.fullmatch(r"unlearning\s+━+ 10/1000000, in 0:00, 100 % still known", unlearning)
    assert re.fullmatch(r"scoring test ━+ 9/9, in 0:00", scoring)


def test_the_time_left_is_shown_on_one_line(bars):
    report = Terminal(bars)
    for done in range(300_000, 305_000, 5):
        report("unlearning", done, 1000000, "100 % still known")
    report._report._bars.refresh()
    [line] = last_lines(bars.getvalue())
    assert re.search(r"━ \d+/1000000, at most [\d:]+ left", line)
    assert len(line) <= 80
    report.__exit__(None, None, None)


def test_a_phase_may_begin_anew(bars):
    with Terminal(bars) as report:
        for _ in range(3):
            report("unlearning", 5, 9)
            report("importance", 1, 8)
            report("importance", 8, 8)
        report("importance", 2, 8)
    assert any("importance" in line and "2/8" in line for line in last_lines(bars.getvalue()))


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Stream(terminal=True)
    with Terminal(stream) as report:
        report("probes", 1, 2)
    assert stream.getvalue() == "probes: 1/2\n"


def test_silence(capsys):
    silent("probes", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_clock():
    assert [clock(s) for s in (0, 59.6, 3599, 3600)] == ["0:00", "1:00", "59:59", "1:00:00"]
