"""A benchmark by Dask: a killed worker, a lost scheduler, a folder that is not shared.

The workers are real; what they run is a stand-in for `stakes unlearn`, so that a test takes
seconds. ``benchmarks/cluster_storm.py`` does the same with real runs.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from checks import write_result
from cluster_storm import finished, free_port, scheduler, worker
from command_line import forked, wait_until
from stakes.errors import InputError
from stakes.runs import cluster, process
from stakes.runs.benchmark import FAILED, bench
from stakes.runs.process import Work, run_cell
from stakes.runs.recipe import read_recipe

pytestmark = pytest.mark.slow

pytest.importorskip("distributed")
CELL = """
import json, os, pathlib, shutil, sys, time
from stakes.manifest import write_manifest
words = sys.argv[1:]
out = pathlib.Path(words[words.index("--out") + 1])
time.sleep(float(words[words.index("--lr") + 1]))
shutil.rmtree(out, ignore_errors=True)
shutil.copytree(os.environ["RESULT"], out)
row = json.loads((out / "row.json").read_text())
row["seed"] = words[words.index("--seed") + 1]
row["threads"] = os.environ["OMP_NUM_THREADS"]
(out / "row.json").write_text(json.dumps(row))
write_manifest(out)
print("all done")
"""
PRELOAD = """
from stakes.runs import process
process.STAKES = ({python!r}, {script!r})
process.POLL = 0.05
"""


@pytest.fixture
def preload(tmp_path, monkeypatch):
    """A module that lets workers, and this process, run the stand-in."""
    result, script = tmp_path / "result", tmp_path / "cell.py"
    script.write_text(CELL)
    write_result(result)
    monkeypatch.setenv("RESULT", str(result))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(process, "STAKES", (sys.executable, str(script)))
    module = tmp_path / "preload.py"
    module.write_text(PRELOAD.format(python=sys.executable, script=str(script)))
    return str(module)


@pytest.fixture
def recipe(tmp_path):
    def make(seconds: float, cells: int = 12):
        path = tmp_path / "trial.toml"
        path.write_text(
            f'forget = "random:{{k}}"\nk = [4]\nseeds = {list(range(cells))}\n'
            f'[[network]]\nmodel = "good"\n[[method]]\nmethod = "neggrad"\nlr = {seconds}\n'
        )
        return read_recipe(path)

    return make


def test_a_worker_and_then_the_scheduler_killed(tmp_path, preload, recipe):
    twelve, out, log, port = recipe(0.5), tmp_path / "sweep", io.StringIO(), free_port()
    assert bench(twelve, tmp_path / "serial", jobs=1, log=io.StringIO()) == 0
    address, code = f"tcp://127.0.0.1:{port}", []
    with scheduler(port) as lost, ExitStack() as stack:
        killed = stack.enter_context(worker(port, "--preload", preload))
        sweep = threading.Thread(
            target=lambda: code.append(bench(twelve, out, cluster=address, log=log))
        )
        sweep.start()
        wait_for(lambda: finished(out) >= 2, sweep)
        stack.enter_context(worker(port, "--preload", preload))
        killed.send_signal(signal.SIGKILL)
        wait_for(lambda: finished(out) >= 5, sweep)
        lost.send_signal(signal.SIGKILL)
        sweep.join()
        assert code == [FAILED]
        assert "resume" in log.getvalue()
        done = finished(out)
        assert 5 <= done < 12
        assert "done in" in log.getvalue()
    log = io.StringIO()
    assert bench(twelve, out, jobs=1, log=log) == 0
    assert f"{done} finished before, {12 - done} to run" in log.getvalue()
    assert (out / "rows.jsonl").read_bytes() == (tmp_path / "serial" / "rows.jsonl").read_bytes()


def test_a_scheduler_lost_at_any_moment_is_a_lost_connection(monkeypatch):
    """While Dask's client tries again, closes and has closed: never an error of its own."""
    monkeypatch.setattr(cluster, "ANSWER", 0.5)
    port, log = free_port(), io.StringIO()
    with (
        scheduler(port) as lost,
        worker(port),
        cluster.connected(f"tcp://127.0.0.1:{port}", (), (), None, log) as pool,
    ):
        lost.kill()
        end = time.monotonic() + 60.0
        while pool._client.status != "closed" and time.monotonic() < end:
            assert pool.looks("/no/folder") == {}
            pool.stop("/no/folder")
            with contextlib.suppress(ConnectionError):
                assert pool.slots() == 1
        with pytest.raises(ConnectionError, match="the scheduler is lost"):
            pool.slots()


def test_results_come_back_where_the_folder_is_not_shared(tmp_path, preload):
    """The worker finds no token in the folder: it gives back all files and leaves none."""
    out = tmp_path / "elsewhere"
    words = ("--seed", "3", "--lr", "0", "--out", str(out / "runs" / "one"))
    work = Work("one", words, str(out), {"command": "c"}, {}, str(tmp_path), token="here")
    ended = run_cell(work)
    assert ended.code == 0
    assert ended.last == "all done"
    assert json.loads(ended.files["runs/one/row.json"])["seed"] == "3"
    assert json.loads(ended.files["cells/one.json"])["state"] == "finished"
    assert {"runs/one/model.safetensors", "cells/one.log"} <= ended.files.keys()
    assert not [path for path in out.rglob("*") if path.is_file()]
    (out / "cells" / process.TOKEN).write_text("here")
    assert run_cell(work).files == {}
    assert (out / "runs" / "one" / "row.json").is_file()


def test_files_that_came_back_make_a_finished_cell(tmp_path, preload, recipe, monkeypatch):
    """The runner writes what a machine without the folder has sent, and verifies it."""
    two, out = recipe(1e-9, cells=2), tmp_path / "out"
    far = process.run_cell

    def away(work):
        there = tmp_path / "there"
        words = tuple(word.replace(str(out), str(there)) for word in work.words)
        return far(Work(work.name, words, str(there), work.facts, work.environment, work.cwd, "x"))

    monkeypatch.setattr(process, "run_cell", away)
    assert bench(two, out, log=io.StringIO()) == 0
    assert len((out / "rows.jsonl").read_text().splitlines()) == 2
    assert [path.name for path in (out / "runs").iterdir() if path.name.startswith(".")] == []


def test_who_only_starts_cells_imports_no_torch():
    program = "import sys, stakes.runs.process; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_cell_ends_with_the_process_that_started_it(tmp_path):
    """Whoever holds the other end of its standard input is gone: it ends, too."""
    read, write = os.pipe()
    (tmp_path / "cell").mkdir()

    def leashed() -> int:
        os.close(write)
        os.dup2(read, 0)
        sys.stdin = os.fdopen(0)
        threading.Thread(target=process._end_with_parent, daemon=True).start()
        Path("ready").touch()
        time.sleep(60)
        return 0

    cell = forked(leashed, tmp_path / "cell")
    os.close(read)
    wait_until((tmp_path / "cell" / "ready").exists)
    time.sleep(0.1)
    assert os.waitpid(cell.number, os.WNOHANG) == (0, 0)  # it lives
    os.close(write)
    assert cell.wait() == -signal.SIGTERM


@pytest.mark.parametrize(
    ("address", "need", "said"),
    [
        ("tcp://127.0.0.1:9", (), "no scheduler answers"),
        ("no/such.json", (), "no such file"),
        ("local", ("GPU",), "--need GPU"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, recipe, monkeypatch, address, need, said):
    monkeypatch.setattr("stakes.runs.cluster.ANSWER", 1.0)
    with pytest.raises(InputError, match=said):
        bench(recipe(1e-9), tmp_path / "out", cluster=address, need=need, log=io.StringIO())


def test_a_need_that_no_worker_meets_is_refused(tmp_path, recipe, monkeypatch):
    """Not waited for without end: by a scheduler's workers, and by those of this machine."""
    monkeypatch.setattr("stakes.runs.cluster.COME", 0.5)
    port, log = free_port(), io.StringIO()
    address, one = f"tcp://127.0.0.1:{port}", recipe(1e-9, cells=1)
    with (
        scheduler(port),
        worker(port, "--resources", "MEMORY=8 GPU=0.5"),
        pytest.raises(InputError, match=r"--need GPU=1: .* GPU=0.5, MEMORY=8"),
    ):
        bench(one, tmp_path / "out", cluster=address, need=("GPU=1",), log=log)
    assert "waiting" in log.getvalue()
    with pytest.raises(InputError, match="--need FPGA=1: no worker offers that"):
        bench(one, tmp_path / "out", cluster="local", jobs=1, need=("FPGA=1",), log=log)
    assert not list((tmp_path / "out").rglob("row.json"))


def test_without_dask_it_says_what_to_install(tmp_path, recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r'pip install "stakes\[cluster\]"'):
        bench(recipe(1e-9), tmp_path / "out", cluster="local", log=io.StringIO())


def wait_for(condition, thread, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition() and thread.is_alive():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
