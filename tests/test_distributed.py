"""Two processes against one: the same weights, rows and checkpoints."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cluster_storm import free_port
from stakes.cli import commands as cli
from stakes.methods import Fisher, NegGrad
from stakes.training import distributed
from two_processes import METHODS, network

SCRIPT = Path(__file__).with_name("two_processes.py")


def start(count: int, *words: object) -> list["subprocess.Popen[str]"]:
    """Processes that work together, as torchrun starts them."""
    port = str(free_port())
    own = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    path = os.pathsep.join([str(SCRIPT.parent), *sys.path])
    common = {**os.environ, **own, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, words)],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def finish(processes: list["subprocess.Popen[str]"]) -> list[str]:
    """What they said on standard error; all of them ended well."""
    said = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return said


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Path, Path]:
    """Folders of what one process and two have computed."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    finish([*start(1, SCRIPT, "compare", one), *start(2, SCRIPT, "compare", two)])
    return one, two


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_reach_the_weights_of_one(both, name):
    one, two = (load_file(folder / f"{name}.safetensors") for folder in both)
    alone, together = (json.loads((folder / f"{name}.json").read_text()) for folder in both)
    torch.testing.assert_close(two, one, rtol=0, atol=1e-5)
    original = network().state_dict()
    assert max(float((one[key] - original[key]).abs().max()) for key in one) > 1e-3
    assert together["end"] == alone["end"]
    assert together["losses"] == pytest.approx(alone["losses"], rel=1e-3, abs=1e-4)
    for key, value in alone["row"].items():
        if isinstance(value, float):
            assert together["row"][key] == pytest.approx(value, rel=1e-3, abs=1e-3), key
        else:
            assert together["row"][key] == value, key


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1)])
def test_a_checkpoint_goes_on_with_another_number_of_processes(tmp_path, first, second):
    out, whole = tmp_path / "run", tmp_path / "whole"
    finish(start(1, SCRIPT, "interrupted", whole, 0))
    for process in start(first, SCRIPT, "interrupted", out, 10):
        process.communicate(timeout=240)
        assert process.returncode != 0
    assert not out.exists()
    finish(start(second, SCRIPT, "interrupted", out, 0))
    assert "going on after step 9" in (tmp_path / "said").read_text()
    one, two = (load_file(folder / "model.safetensors") for folder in (whole, out))
    torch.testing.assert_close(two, one, rtol=0, atol=1e-5)
    row = json.loads((out / "row.json").read_text())
    assert row["processes"] == second


def test_a_process_that_dies_ends_the_other_with_one_line(tmp_path):
    words = "-m stakes unlearn --model stakes:digits_cnn --weights random --data digits --forget "
    words += f"random:8 --probe-batch 8 --settle 0 --lr 1e-30 --out {tmp_path / 'out'}"
    processes = start(2, *words.split(), "--max-steps", "1000000")
    wait_for(lambda: list(tmp_path.glob(".out.unfinished")), processes)
    time.sleep(3)  # within the steps
    processes[1].send_signal(signal.SIGKILL)
    begun = time.monotonic()
    _, said = processes[0].communicate(timeout=60)
    assert time.monotonic() - begun < 20
    assert processes[0].returncode == 1
    assert said.splitlines()[-1] == (
        "stakes: cannot continue: another process of this run has ended"
    )
    processes[1].communicate()


def test_what_cannot_be_divided_is_refused_by_name(monkeypatch, capsys, classifier):
    monkeypatch.setattr(distributed, "count", lambda: 2)
    with pytest.raises(ValueError, match="Fisher"):
        Fisher().check_processes(classifier)
    with pytest.raises(ValueError, match="add --batch-norm eval"):
        NegGrad(batch_norm="train").check_processes(classifier)
    NegGrad(batch_norm="eval").check_processes(classifier)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["demo"]) == 2
    assert "torchrun is for stakes unlearn and evaluate" in capsys.readouterr().err


def wait_for(condition, processes, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        assert all(process.poll() is None for process in processes)
        time.sleep(0.1)
