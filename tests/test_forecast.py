"""`stakes unlearn --dry-run`: what a run would take, and nothing written."""

import json
from pathlib import Path

import pytest

from command_line import ran, refused, with_options
from stakes.cli import commands as cli
from stakes.runs import forecast
from stakes.runs.forecast import Enough, Trial


@pytest.fixture
def base(place, tmp_path, monkeypatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return [
        "unlearn", "--model", "stakes:digits_cnn", "--weights", f"{place}/net.th",
        "--input-size", "8", "--data", f"{place}/data", "--forget", "random:6",
        "--probe-batch", "16", "--max-steps", "500", "--out", "OUT", "--dry-run",
    ]  # fmt: skip


def test_it_says_what_the_run_would_take_and_writes_nothing(base, capsys):
    ran(base)
    said = capsys.readouterr().out
    assert "recognised before  6 of 6 images to forget" in said
    assert "of at most 500" in said
    assert "(40 steps) to" in said
    assert f"would be written   {Path.cwd() / 'OUT'}" in said
    assert list(Path.cwd().iterdir()) == []


def test_for_programs_and_for_a_method_without_steps(base, capsys):
    ran([*base, "--json", "--quiet"])
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["seconds_step"] < 60
    assert found["steps_most"] == 500
    steps = (500 - 40) * found["seconds_step"]
    assert found["seconds_most"] - found["seconds_least"] == pytest.approx(steps)
    assert found["replaces"] is False
    ran([*base, "--quiet"])
    assert capsys.readouterr().out == ""
    short = [word for word in base if word not in ("--probe-batch", "16", "--max-steps", "500")]
    ran([*short, "--method", "esc", "--json", "--quiet"])
    found = json.loads(capsys.readouterr().out)
    assert found["seconds_step"] is None
    assert 0 < found["seconds_least"] <= found["seconds_most"]
    assert list(Path.cwd().iterdir()) == []


def test_it_refuses_what_the_run_would_refuse(base, place, capsys):
    order = Path("classes.txt")
    order.write_text("red\ngrey\nblue\ngreen\n")
    words = with_options([*base, "--classes", str(order)], forget=f"{place}/data/train")
    refused(words, "recognises only .* of the 40 images", capsys)
    Path("OUT").mkdir()
    Path("OUT/mine.txt").touch()
    refused(base, "--out OUT is not empty", capsys)
    assert cli.main([*base, "--overwrite"]) == 2
    assert sorted(path.name for path in Path.cwd().rglob("*")) == ["OUT", "classes.txt", "mine.txt"]


def test_what_a_trial_knows(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(forecast.time, "perf_counter", lambda: now[0])
    trial = Trial()
    for done in (0, 20, 40):
        trial("probes", done, 100)
        now[0] += 3
    assert trial.seconds_a_step is None
    assert trial.seconds_before == pytest.approx(9 + 6 * 60 / 40)
    now[0] = 30.0
    for step, taken in enumerate((9, 2, 3, 2)):
        trial("unlearning", step, 50)
        now[0] += taken
    assert (trial.seconds_a_step, trial.seconds_before, trial.budget) == (2.5, 30.0, 50)
    now[0] = 70.0
    with pytest.raises(Enough):
        trial("unlearning", 4, 50)
