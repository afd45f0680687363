"""Measures of the user's own, from a file to the row and the table."""

import json
import shlex
from pathlib import Path

import pytest
import torch

from stakes.cli import commands as cli
from stakes.errors import InputError
from stakes.runs.measures import own_measures, tried
from stakes.runs.recipe import read_recipe

MINE = """
def confidence(classifier, given):
    assert not classifier.training
    return classifier(given.forget.images).softmax(1).max(1).values.mean()

def counted(classifier, given):
    return len(given.test) + 1000 * len(given.retain)

def words(classifier, given):
    return "many"

def broken(classifier, given):
    return 1 / 0

value = 3
"""


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)
    return Path("mine.py")


def test_a_function_gets_the_network_and_the_data(trained, forget, test_images, train_images):
    words = ["mine.py:confidence", "mine.py:counted"]
    found = tried(own_measures(words, forget, test_images, train_images), trained)
    assert list(found) == ["confidence", "counted"]
    with torch.no_grad():
        expected = trained(forget.images).softmax(1).max(1).values.mean()
        assert found["confidence"](trained) == pytest.approx(float(expected))
        assert found["counted"](trained) == 80 + 160_000


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["mine:confidence"], ("mine:confidence", ".py:function")),
        (["none.py:confidence"], ("none.py",)),
        (["mine.py:nothing"], ("nothing", "mine.py")),
        (["mine.py:value"], ("value",)),
        (["mine.py:words"], ("words", "str")),
        (["mine.py:broken"], ("mine.py", "ZeroDivisionError")),
        (["mine.py:confidence"] * 2, ("confidence", "twice")),
    ],
)
def test_what_is_no_measure_is_refused_in_one_line(words, parts, trained, forget):
    with pytest.raises(InputError) as caught:
        tried(own_measures(words, forget), trained)
    assert all(part in str(caught.value) for part in parts), caught.value
    assert "\n" not in str(caught.value)


def test_it_stands_in_the_row_before_and_after(capsys):
    words = "unlearn --model stakes:digits_cnn --weights random --data digits --forget random:2"
    words += " --method neggrad --max-steps 1 --eval-samples 5 --metric mine.py:confidence"
    assert cli.main(shlex.split(words + " --quiet --out OUT")) in (0, 3)
    row = json.loads(Path("OUT/row.json").read_text())
    assert 0 < row["confidence_before"] < 1
    assert 0 < row["confidence"] < 1


RECIPE = """
forget = "random:2"
seeds = [0]
columns = ["+confidence"]
[common]
data = "digits"
metric = ["mine.py:confidence", "mine.py:counted"]
[[network]]
name = "net"
model = "stakes:digits_cnn"
[[method]]
method = "neggrad"
"""


def test_a_recipe_names_it_and_its_column(file):
    Path("mine.toml").write_text(RECIPE)
    (cell,) = read_recipe("mine.toml").cells
    line = shlex.join(cell.arguments(Path("OUT")))
    assert "--metric mine.py:confidence --metric mine.py:counted" in line
    before = cell.fingerprint()
    file.write_text(MINE + "# changed")
    assert cell.fingerprint() != before
    Path("mine.toml").write_text(RECIPE.replace("+confidence", "+confidense"))
    with pytest.raises(InputError) as caught:
        read_recipe("mine.toml")
    assert "confidense" in str(caught.value)
