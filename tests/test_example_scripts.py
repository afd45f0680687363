"""The scripts in examples/ run, on less of everything, and say what they promise."""

import pytest

from scripts import PROJECT, loaded
from stakes import ForgetSet, NegGrad, demo

pytestmark = pytest.mark.slow

EXAMPLES = PROJECT / "examples"
SCRIPTS = {"own_network_and_folder", "own_tensors", "sweep_to_dataframe", "compare_two_methods"}


def main(name: str):
    return loaded(EXAMPLES / f"{name}.py").main


@pytest.fixture(autouse=True)
def quick(few_digits, unattacked, monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "EPOCHS", 3)
    monkeypatch.chdir(tmp_path)


def test_no_script_goes_unrun():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == SCRIPTS


def test_a_network_and_a_folder_of_ones_own(tmp_path, capsys):
    row = main("own_network_and_folder")(tmp_path, epochs=8, max_steps=3)
    assert row["n_retain"] == 320 - 8  # the files in forget/ are recognised in train/
    assert row["acc_test_before"] > 20
    assert "acc_forget: " in capsys.readouterr().out
    assert (tmp_path / "unlearned" / "model.safetensors").is_file()


def test_tensors_of_ones_own(capsys):
    row = main("own_tensors")(epochs=30, max_steps=3)
    assert row["acc_test_before"] > 20
    assert capsys.readouterr().out.count("was recognised as") == 4
    assert len(ForgetSet.load("forget.safetensors")) == 4


def test_a_sweep_becomes_a_frame(capsys):
    pytest.importorskip("pandas")
    table = main("sweep_to_dataframe")(rates=(1e-3, 1e-2), seeds=(0, 1))
    assert table[["lr", "seed"]].drop_duplicates().shape == (4, 2)
    assert "acc_lost" in capsys.readouterr().out


def test_two_methods_are_compared_on_the_same_images(monkeypatch, capsys):
    seen = []
    draw = ForgetSet.random
    monkeypatch.setattr(ForgetSet, "random", lambda *a: seen.append(draw(*a)) or seen[-1])
    methods = {"one step": NegGrad(max_steps=1), "two steps": NegGrad(max_steps=2)}
    rows = main("compare_two_methods")(methods, seeds=(0, 1), k=2)
    assert {name: len(found) for name, found in rows.items()} == {"one step": 2, "two steps": 2}
    assert len(seen) == 2
    out = capsys.readouterr().out
    assert out.count("two steps") == out.count("one step") == 4
