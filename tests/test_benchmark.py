"""Benchmarks through real processes: tiny runs of stakes, or a stand-in that copies a result."""

import io
import json
import os
import signal
import sys

import psutil
import pytest
import torch
from safetensors.torch import save_file

from checks import write_result
from command_line import forked, wait_until
from stakes import Classifier
from stakes.cli import commands as cli
from stakes.errors import InputError
from stakes.manifest import write_manifest
from stakes.runs import benchmark, process
from stakes.runs.benchmark import bench, share_out
from stakes.runs.folder import checkpoint_beside
from stakes.runs.process import Look
from stakes.runs.recipe import read_recipe
from stakes.runs.runner import Runner, read_record, unfinished

STAND_IN = """
import json, os, pathlib, shutil, sys, time
words = sys.argv[1:]
after = lambda option: words[words.index(option) + 1]
out = pathlib.Path(after("--out"))
noted = {"cell": out.name, "start": time.time()}
noted |= {key: os.environ.get(key) for key in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
model = after("--model")
print("beginning", file=sys.stderr)
if model == "broken":
    print("the last words", file=sys.stderr)
    sys.exit(4)
if model == "killed":
    (out.parent / f".{out.name}.unfinished").mkdir()
    os.kill(os.getpid(), 9)
time.sleep(float(after("--lr")))
shutil.rmtree(out, ignore_errors=True)
if model != "empty":
    shutil.copytree(os.environ["RESULT"], out)
with open(os.environ["NOTES"], "a") as notes:
    notes.write(json.dumps(noted | {"end": time.time()}) + "\\n")
"""


@pytest.fixture
def notes(tmp_path, monkeypatch):
    """Let cells run the stand-in; gives a function for what those that finished noted."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    result = tmp_path / "result"
    write_result(result)
    monkeypatch.setattr(process, "STAKES", [sys.executable, str(tmp_path / "stand_in.py")])
    monkeypatch.setattr(process, "POLL", 0.02)
    monkeypatch.setenv("RESULT", str(result))
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def read():
        path = tmp_path / "notes"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    return read


@pytest.fixture
def make(tmp_path):
    """A recipe of networks by name and model, some seeds, and one method."""

    def make(networks=("good",), seeds=(0,), lr=1e-9, weights=None):
        tables = "".join(f'[[network]]\nname = "{n}"\nmodel = "{n}"\n' for n in networks)
        more = "" if weights is None else f'weights = "{weights}"\n'
        path = tmp_path / "trial.toml"
        path.write_text(
            f'forget = "random:{{k}}"\nk = [4]\nseeds = {list(seeds)}\n'
            f'[common]\ndata = "digits"\n{tables}{more}'
            f'[[method]]\nmethod = "neggrad"\nlr = {lr}\n'
        )
        return read_recipe(path)

    return make


def test_finished_cells_are_skipped_and_the_tables_written_anew(tmp_path, make, notes, capsys):
    recipe, out = make(seeds=(0, 1)), tmp_path / "out"
    assert bench(recipe, out, log=io.StringIO()) == 0
    assert [item["cell"] for item in notes()] == ["good-neggrad-k4-s0", "good-neggrad-k4-s1"]
    assert str(out / "table.md") in capsys.readouterr().out
    for name in ("table.md", "table.csv", "table.tex", "report.html", "rows.jsonl"):
        (out / name).unlink()
    log = io.StringIO()
    assert bench(recipe, out, log=log) == 0
    assert len(notes()) == 2
    assert "2 finished before, 0 to run" in log.getvalue()
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert [row["cell"] for row in rows] == ["good-neggrad-k4-s0", "good-neggrad-k4-s1"]
    for name in ("table.md", "table.csv", "table.tex", "report.html"):
        assert (out / name).stat().st_size > 0
    assert not (out / "failed").exists()


def test_what_makes_a_finished_cell_count_no_more(tmp_path, make, notes):
    weights, out = tmp_path / "w.pt", tmp_path / "out"
    weights.write_bytes(b"weights")
    recipe = make(weights=weights)
    bench(recipe, out, log=io.StringIO())
    (cell,) = recipe.cells
    folder = out / "runs" / cell.name
    assert unfinished(cell, out) is None

    assert "recipe has changed" in unfinished(make(weights=weights, lr=0.01).cells[0], out)
    weights.write_bytes(b"others")
    assert "a file that it names" in unfinished(cell, out)
    weights.write_bytes(b"weights")
    assert unfinished(cell, out) is None

    for name, damage, reason in (
        ("model.safetensors", lambda data: data[:-1] + b"\x01", "not the one that was scored"),
        ("model.safetensors", lambda data: data[:-3], "cannot be read"),
        ("row.json", lambda data: data[:-3], "cannot be read"),
        ("evidence.json", lambda data: b"{}", "evidence.json is missing"),
    ):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(damage(whole))
        assert "changed after the run" in unfinished(cell, out)
        write_manifest(folder)
        assert reason in unfinished(cell, out)
        (folder / name).write_bytes(whole)
        write_manifest(folder)
    assert unfinished(cell, out) is None

    (folder / "model.safetensors").unlink()
    assert "cannot be read" in unfinished(cell, out)
    (out / "cells" / f"{cell.name}.json").unlink()
    assert unfinished(cell, out) == "not run yet"


def test_a_damaged_result_is_made_anew(tmp_path, make, notes):
    recipe, out = make(seeds=(0, 1)), tmp_path / "out"
    bench(recipe, out, log=io.StringIO())
    tampered, headless = (out / "runs" / cell.name for cell in recipe.cells)
    save_file({"weight": torch.zeros(2, 3)}, tampered / "model.safetensors")
    (headless / "row.json").unlink()
    log = io.StringIO()
    assert bench(recipe, out, log=log) == 0
    assert len(notes()) == 4
    assert "changed after the run" in log.getvalue()
    assert [unfinished(cell, out) for cell in recipe.cells] == [None, None]


def test_a_row_without_its_manifest_is_no_result(tmp_path, make, notes):
    """Whoever edits a row can remove the manifest that would tell."""
    recipe, out = make(seeds=(0, 1)), tmp_path / "out"
    bench(recipe, out, log=io.StringIO())
    folder = out / "runs" / recipe.cells[0].name
    (folder / "manifest.json").unlink()
    row = json.loads((folder / "row.json").read_text())
    (folder / "row.json").write_text(json.dumps(row | {"acc_test": 99.0}))
    assert bench(recipe, out, only=["seed=1"], log=io.StringIO()) == 0
    assert "1 of 2 cells" in (out / "table.md").read_text()
    log = io.StringIO()
    assert bench(recipe, out, log=log) == 0
    assert f"{folder.name}: to be run again, its manifest.json is missing" in log.getvalue()
    assert len(notes()) == 3
    assert "99.00" not in (out / "table.md").read_text()


def test_names_that_are_too_long_for_a_file_or_of_another_script_are_names(tmp_path, make, notes):
    long = ["n" * 260 + end for end in "ab"]
    recipe, out = make(networks=(*long, "日本", "中国")), tmp_path / "out"
    assert [cell.name for cell in recipe.cells[2:]] == ["日本-neggrad-k4-s0", "中国-neggrad-k4-s0"]
    assert bench(recipe, out, log=io.StringIO()) == 0
    assert len(notes()) == 4
    assert all(name in (out / "table.md").read_text() for name in (*long, "日本", "中国"))


def test_a_failing_cell_is_recorded_passed_by_and_tried_again(tmp_path, make, notes):
    recipe, out, log = (
        make(networks=("broken", "killed", "empty", "good")),
        tmp_path / "o",
        io.StringIO(),
    )
    assert bench(recipe, out, log=log) == benchmark.FAILED
    assert [item["cell"] for item in notes()] == ["empty-neggrad-k4-s0", "good-neggrad-k4-s0"]
    broken, killed, empty = (
        (out / "failed" / f"{name}-neggrad-k4-s0.txt").read_text()
        for name in ("broken", "killed", "empty")
    )
    assert "exit code 4" in broken
    assert "the last words" in broken
    assert "stakes unlearn --method neggrad --model broken" in broken
    assert "killed by SIGKILL, perhaps for want of memory" in killed
    assert "row.json" in empty
    left = list((out / "runs").glob(".*"))  # the killed one could not tidy up, and may go on
    assert left == [checkpoint_beside(out / "runs" / "killed-neggrad-k4-s0")]
    assert "FAILED (exit code 4)" in log.getvalue()
    assert "1 of 4 cells; 3 failed, 0 not run" in (out / "table.md").read_text()
    assert read_record(recipe.cells[0], out)["state"] == "failed"

    stand_in = tmp_path / "stand_in.py"
    stand_in.write_text(stand_in.read_text().replace('"broken"', '"mended"'))
    assert bench(recipe, out, log=io.StringIO()) == benchmark.FAILED
    assert sum(item["cell"].startswith("good") for item in notes()) == 1
    assert {path.stem.split("-")[0] for path in (out / "failed").iterdir()} == {"killed", "empty"}


def test_two_at_once_share_the_cores(tmp_path, make, notes, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    assert bench(make(seeds=(0, 1, 2), lr=0.6), tmp_path / "o", jobs=2, log=io.StringIO()) == 0
    first, second, third = sorted(notes(), key=lambda item: item["start"])
    assert second["start"] < first["end"]
    assert third["start"] > min(first["end"], second["end"])
    assert {item["OMP_NUM_THREADS"] for item in notes()} == {"3"}


@pytest.mark.parametrize(
    ("cores", "gpus", "visible", "jobs", "threads", "places"),
    [
        (7, 0, None, None, "7", [None]),
        (8, 0, None, None, "4", [None, None]),
        (8, 3, None, None, "2", ["0", "1", "2"]),
        (8, 2, "4,7", 3, "2", ["4", "7", "4"]),
        (2, 0, None, 3, "1", [None] * 3),
        (4, 2, None, 1, "4", [None]),
    ],
)
def test_how_cores_and_gpus_are_shared_out(
    monkeypatch, cores, gpus, visible, jobs, threads, places
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = share_out(jobs)
    assert [place.get("CUDA_VISIBLE_DEVICES") for place in found] == places
    assert {place["OMP_NUM_THREADS"] for place in found} == {threads}


def test_the_estimate_takes_the_cells_most_alike(tmp_path, make):
    cells = make(networks=("a", "b"), seeds=(0, 1)).cells
    lines = Runner(cells, tmp_path, io.StringIO())
    lines._at_once = 2
    lines.todo, lines.done = cells, cells[:2]
    lines._seconds = [(cells[0], 10.0), (cells[1], 30.0)]
    assert [lines._expected(cell) for cell in cells] == [10.0, 30.0, 10.0, 30.0]
    assert lines._time_left() == "; 2 left, about 20.0 s"
    lines._looks = {cells[1].name: Look(30.0, 0.0, ""), cells[2].name: Look(4.0, 0.0, "")}
    assert lines._time_left() == "; 2 left, about 18.0 s"  # what has ended is not still running
    lines._seconds = [(cells[0], 10.0)]
    assert lines._expected(cells[1]) == 10.0


def test_a_dry_run_writes_nothing_and_prints_what_can_be_copied(tmp_path, make, notes, capsys):
    recipe, out = make(), tmp_path / "out"
    assert bench(recipe, out, dry_run=True) == 0
    assert not out.exists()
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("# not run yet; OMP_NUM_THREADS=")
    assert second.startswith("stakes unlearn --method neggrad --model good ")
    bench(recipe, out, log=io.StringIO())
    capsys.readouterr()
    bench(recipe, out, dry_run=True)
    assert capsys.readouterr().out.startswith("# finished;")


def test_some_cells_are_run_and_the_table_says_that_it_is_partial(tmp_path, make, notes):
    recipe, out = make(networks=("good", "fine"), seeds=(0, 1)), tmp_path / "out"
    assert bench(recipe, out, only=["network=good,seed=1"], threads=3, log=io.StringIO()) == 0
    assert [item["cell"] for item in notes()] == ["good-neggrad-k4-s1"]
    assert notes()[0]["OMP_NUM_THREADS"] == "3"
    assert "1 of 4 cells; 0 failed, 3 not run" in (out / "table.md").read_text()
    assert bench(recipe, out, only=["seed=0"], log=io.StringIO()) == 0
    assert bench(recipe, out, log=io.StringIO()) == 0
    assert len(notes()) == 4
    assert "Partial" not in (out / "table.md").read_text()


def test_a_stop_leaves_a_table_of_what_is_finished(tmp_path, make, notes, monkeypatch):
    recipe, out, log = make(seeds=(0, 1, 2), lr=4.0), tmp_path / "out", io.StringIO()
    finish = Runner._finish

    def stop(self, *ended):
        finish(self, *ended)
        raise KeyboardInterrupt

    monkeypatch.setattr(Runner, "_finish", stop)
    assert bench(recipe, out, jobs=1, log=log) == benchmark.INTERRUPTED
    assert "1 of 3 cells; 0 failed, 2 not run" in (out / "table.md").read_text()
    assert "stopped after 1 of 3 cells" in log.getvalue()
    assert str(out / "table.md") in log.getvalue()


def test_a_folder_of_something_else_is_left_alone(tmp_path, make, notes):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report.html").write_text("mine")
    (tmp_path / "mine" / "cells").mkdir()
    with pytest.raises(InputError, match="files"):
        bench(make(), tmp_path / "mine")
    with pytest.raises(InputError, match="is a file"):
        bench(make(), tmp_path / "mine" / "report.html")
    with pytest.raises(InputError, match="--jobs 0"):
        bench(make(), tmp_path / "out", jobs=0)
    with pytest.raises(InputError, match="--threads 0"):
        bench(make(), tmp_path / "out", threads=0)
    assert notes() == []


def test_two_benchmarks_in_one_folder_are_refused(tmp_path, make, notes):
    with (
        benchmark._locked(tmp_path / "out"),
        pytest.raises(InputError, match="another benchmark"),
    ):
        bench(make(), tmp_path / "out", log=io.StringIO())


REAL = """
forget = "random:{{k}}"
k = [4]
seeds = [0]
figures = ["2a", "4", "5a", "5b", "6", "7", "8"]
columns = ["+retrieval_retain_map"]
threads = 1
[common]
data = "{data}"
eval_samples = 20
max_steps = {steps}
force = true
[[network]]
name = "saved"
model = "{model}"
[[method]]
name = "NegGrad"
method = "neggrad"
lr = {lr}
"""


@pytest.mark.slow
def test_a_real_benchmark(tmp_path, capsys):
    torch.manual_seed(0)
    saved = Classifier.load("stakes:digits_cnn", class_names=tuple("0123456789"))
    saved.save(tmp_path / "network")
    text = REAL.format(steps=2, lr=1e-3, data="digits", model=tmp_path / "network")
    (tmp_path / "trial.toml").write_text(text)
    out = tmp_path / "out"
    assert cli.main(["bench", str(tmp_path / "trial.toml"), "--out", str(out)]) == 0
    (row,) = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert (row["cell_network"], row["cell_method"], row["k"]) == ("saved", "NegGrad", 4)
    assert row["weights_digest"] == saved.digest()
    recipe = read_recipe(tmp_path / "trial.toml")
    assert row["command"] == read_record(recipe.cells[0], out)["command"]
    assert unfinished(recipe.cells[0], out) is None
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "saved" in page
    assert {path.name for path in out.glob("*.svg")} == {
        f"figure-{number}.svg" for number in recipe.figures
    }
    assert str(out / "figure-7.svg") in capsys.readouterr().out
    assert all(f"Figure {number}. " in page for number in recipe.figures)
    collapse = (out / "figure-2a.svg").read_text(encoding="utf-8")
    assert f"NegGrad: {row['drift_probes']:.3g} at step {row['steps']}" in collapse
    bars = (out / "figure-5b.svg").read_text(encoding="utf-8")
    assert f"NegGrad, retain, mAP {row['retrieval_retain_map']:.1f}" in bars
    assert f"{row['retrieval_retain_map']:.2f}" in (out / "table.md").read_text(encoding="utf-8")
    evidence = json.loads((out / "runs/saved-neggrad-k4-s0/evidence.json").read_text())
    affinities = (out / "figure-7.svg").read_text(encoding="utf-8")
    for item in evidence["affinities"]:
        assert len(item["before"]) == len(item["after"]) == 10
        change = 1 - torch.cosine_similarity(
            *(torch.tensor(item[when]).double() for when in ("before", "after")), dim=0
        )
        assert f"NegGrad, {item['label']}: {float(change):.3f}" in affinities
        assert all(near["text"] for near in item["nearest"])
    assert len(evidence["affinities"]) == 2


def test_ctrl_c_stops_the_cell_and_leaves_nothing_half_written(tmp_path, make, notes):
    (tmp_path / "good").mkdir()  # what its cells name is looked for before the first runs
    recipe, out = make(seeds=(0, 1), lr=100.0), tmp_path / "out"

    def begin() -> int:
        os.setsid()
        return cli.main(["bench", str(tmp_path / "trial.toml"), "--out", str(out), "--jobs", "1"])

    bench = forked(begin, tmp_path)
    log = out / "cells" / "good-neggrad-k4-s0.log"
    wait_until(lambda: log.exists() and "beginning" in log.read_text())
    (child,) = psutil.Process(bench.number).children()
    os.kill(bench.number, signal.SIGINT)
    assert bench.wait() == benchmark.INTERRUPTED
    assert "KeyboardInterrupt" in log.read_text()  # the cell was asked, not killed
    assert "stopped after 0 of 2 cells" in bench.err.read_text()
    assert not child.is_running()
    assert list((out / "runs").iterdir()) == []
    assert [unfinished(cell, out) for cell in recipe.cells] == ["was stopped", "not run yet"]
