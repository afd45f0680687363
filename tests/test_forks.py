"""Tests that run in forked processes are the same tests: each once, with all that they report."""

import contextlib
import os
import re

import pytest

from command_line import forked
from forks import MOST

pytestmark = pytest.mark.slow

SUITE = """
import os, pathlib, signal, time, warnings, pytest

@pytest.fixture(scope="module", autouse=True)
def tidy():
    yield
    pathlib.Path(f"tidied-{os.getpid()}").touch()

@pytest.mark.parametrize("number", range(50))
def test_many(number, tmp_path):
    with open("ran", "a") as file:
        file.write(f"{number} {tmp_path}\\n")

def test_one_fails():
    print("a word to find")
    assert os.getppid() == 0

def test_one_warns():
    warnings.warn("a warning to find")

@pytest.mark.skip(reason="a reason to find")
def test_one_is_skipped():
    pass
"""
ENDS = """
import os, signal

def test_before():
    pass

def test_it_ends_its_process():
    os.kill(os.getpid(), signal.SIGKILL)

def test_after():
    pass
"""


def outcome(folder, *options) -> tuple[int, str]:
    """The exit code of pytest in a folder, with two processes, and what it says."""

    def run() -> int:
        os.environ.pop("PYTEST_FORK", None)
        with (folder / "said").open("w", buffering=1) as said, contextlib.redirect_stdout(said):
            return pytest.main(["-c", "none.ini", "-p", "forks", "--forks", "2", *options])

    (folder / "none.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
    return forked(run, folder).wait(), (folder / "said").read_text()


def test_every_test_runs_once_and_all_is_reported(tmp_path):
    for name in ("test_a.py", "test_b.py"):
        (tmp_path / name).write_text(SUITE)
    code, said = outcome(tmp_path, "-q")
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "2 failed, 102 passed, 2 skipped" in said
    for words in ("a word to find", "a warning to find"):
        assert said.count(words) >= 2, words
    ran = [line.split() for line in (tmp_path / "ran").read_text().splitlines()]
    assert sorted(int(number) for number, _ in ran) == sorted([*range(50)] * 2)
    assert len({folder for _, folder in ran}) == 100
    assert [*tmp_path.glob("tidied-*")]
    assert MOST < 50  # so that a file is divided


def test_what_a_process_did_not_come_to_has_failed(tmp_path):
    (tmp_path / "test_ends.py").write_text(ENDS)
    (tmp_path / "test_others.py").write_text("def test_other():\n    pass\n")
    code, said = outcome(tmp_path, "-q", "-rf")
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "2 failed, 2 passed" in said
    for name in ("test_it_ends_its_process", "test_after"):
        assert f"FAILED test_ends.py::{name}" in said
    assert len(re.findall("^its process ended with exit code -9", said, re.M)) == 2


def test_the_first_failure_ends_them_all_where_it_is_asked_to(tmp_path):
    (tmp_path / "test_a.py").write_text("import time\n\ndef test_fails():\n    assert False\n")
    body = "@pytest.mark.parametrize('i', range(20))\ndef test_waits(i):\n    time.sleep(0.2)\n"
    for name in "bcd":
        (tmp_path / f"test_{name}.py").write_text(f"import time, pytest\n\n{body}")
    code, said = outcome(tmp_path, "-q", "-x")
    assert code == pytest.ExitCode.TESTS_FAILED
    passed = re.search(r"(\d+) passed", said)
    assert passed is None or int(passed[1]) < 20
