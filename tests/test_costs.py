"""The scripts that measure costs, on a tiny network."""

import contextlib
import io
import itertools
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

import costs
import gpu
import profile_step
import scaling
import settings

pytestmark = pytest.mark.slow


def test_a_cost_is_of_the_steps_asked_for():
    found = costs.cost("stakes:digits_cnn", k=4, side=16, steps=3, probe_batch=8)
    assert found["steps"] == 3
    assert 0 < found["seconds_step"] < 60
    assert found["peak_memory_mb"] > 50
    assert 0 < found["share_passes"] <= 100


def test_networks_of_timm_are_made_with_random_weights():
    assert costs.network("timm:resnet10t", 32, 10, "cpu").weights == "random (seed 0)"


def test_large_networks_are_measured_on_any_device(tmp_path, monkeypatch, capsys):
    def run(words, **options):
        """Here, where PyTorch is imported; the next test starts a process."""
        if "no:such" in words[-1]:
            return subprocess.CompletedProcess(words, 1, "", "Traceback\nthere is no no:such\n")
        assert words[:2] == [sys.executable, gpu.__file__]
        monkeypatch.setattr("sys.argv", words[1:])
        with contextlib.redirect_stdout(io.StringIO()) as out:
            gpu.main()
        return subprocess.CompletedProcess(words, 0, out.getvalue(), "")

    # In its module alone: the name of the processor is found by a process too.
    alone = SimpleNamespace(run=run, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr(gpu, "subprocess", alone)
    words = ["--networks", "stakes:digits_cnn", "no:such", "--k", "4", "--side", "16"]
    words += ["--steps", "2", "--probe-batch", "8", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["gpu.py", str(tmp_path), *words])
    gpu.main()
    good, bad = (json.loads(line) for line in (tmp_path / "costs.jsonl").read_text().splitlines())
    assert good["seconds_step"] > 0
    assert "no:such" in bad["failed"]
    assert "| stakes:digits_cnn | 4 | 1 |" in capsys.readouterr().out


def test_what_does_not_fit_into_the_time_is_left_out(tmp_path, monkeypatch):
    words = ["--networks", "stakes:digits_cnn", "--k", "4", "--device", "cpu", "--budget"]
    for budget, said in (("0", "left out"), ("1", "stopped after 1 s")):  # torch takes longer
        monkeypatch.setattr("sys.argv", ["gpu.py", str(tmp_path), *words, budget])
        gpu.main()
        assert said in json.loads((tmp_path / "costs.jsonl").read_text())["failed"]


def test_growing_costs_are_a_table_of_medians_and_a_chart(tmp_path, monkeypatch):
    took = itertools.cycle((16.0, 90.0, 15.0))

    def run(words, **options):
        row = {"seconds_step": next(took), "peak_memory_mb": 10.0, "share_passes": 95.0}
        return type("Ended", (), {"returncode": 0, "stdout": json.dumps(row), "stderr": ""})

    monkeypatch.setattr(scaling, "hardware", lambda device: "here")  # it asks uname
    monkeypatch.setattr(scaling.subprocess, "run", run)
    scaling.sweep(tmp_path, {axis: values[:2] for axis, values in scaling.LIGHT.items()}, 2, 3)
    text = (tmp_path / "scaling.md").read_text()
    assert "| images to forget | 16 | 3 | 16 (15 to 90) | 10 | 95 |" in text
    assert "| images scored | 500 | 3 | 16 (15 to 90) in all | 10 | 95 |" in text
    assert (tmp_path / "scaling.svg").read_text().count('<g id="axes_') == 8
    before = (tmp_path / "scaling.jsonl").read_text().splitlines()
    scaling.sweep(tmp_path, {"side": (16,)}, 2, 3)
    after = (tmp_path / "scaling.jsonl").read_text().splitlines()
    assert after == [line for line in before if '"axis": "side", "value": 32' not in line]


def test_a_profile_names_the_operations_and_the_share_of_the_passes(monkeypatch, capsys):
    words = ["--network", "stakes:digits_cnn", "--side", "8", "--k", "4", "--steps", "2"]
    monkeypatch.setattr("sys.argv", ["profile_step.py", *words])
    profile_step.main()
    said = capsys.readouterr().out
    assert re.search(r"forward and backward passes are \d+\.\d %", said)
    assert re.search(r"\| aten::mkldnn_convolution \| \d+ \| \d+\.\d \|", said)
    assert said.count("\n| ") == 1 + profile_step.TOP


def test_settings_of_a_step_take_turns(monkeypatch, capsys):
    words = ["--network", "stakes:digits_cnn", "--side", "8", "--rounds", "1", "--settings"]
    names = ["bfloat16 (the default here)", "float32", "bfloat16, channels first"]
    monkeypatch.setattr("sys.argv", ["settings.py", *words, *names])
    settings.main()
    lines = capsys.readouterr().out.splitlines()
    table = [line.split(" | ") for line in lines if line.startswith("| ")][1:]
    assert [row[0][2:] for row in table] == names
    assert float(table[0][3]) == 1.0
    losses = [float(row[4].rstrip(" |")) for row in table]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] != losses[0]
