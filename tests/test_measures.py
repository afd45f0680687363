"""Measures of the user's own, from a file to the row and the table."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch

from stakes import Classifier
from stakes.cli import commands as cli
from stakes.errors import InputError
from stakes.evaluation.evaluate import evaluate
from stakes.evaluation.own import Given, measured
from stakes.rows import own_keys
from stakes.runs.measures import own_measures, tried
from stakes.runs.recipe import read_recipe

pytestmark = pytest.mark.usefixtures("undrawn", "unattacked")

MINE = """
def confidence(classifier, given):
    assert not classifier.training
    return classifier(given.forget.images).softmax(1).max(1).values.mean()

def counted(classifier, given):
    return len(given.test) + 1000 * len(given.retain)

def words(classifier, given):
    return "many"

def alone(classifier):
    return 1.0

def broken(classifier, given):
    return 1 / 0

def undefined(classifier, given):
    return float("nan")

value = 3
"""


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)
    return Path("mine.py")


def test_a_function_gets_the_network_and_the_data(trained, forget, test_images, train_images):
    found = own_measures(["mine.py:confidence", "mine.py:counted"])
    assert list(found) == ["confidence", "counted"]
    given = Given(forget, test_images, train_images)
    with torch.no_grad():
        expected = trained.eval()(forget.images).softmax(1).max(1).values.mean()
    value = measured("confidence", found["confidence"], trained, given)
    assert value == pytest.approx(float(expected))
    assert measured("counted", found["counted"], trained, given) == 80 + 160_000


def test_the_same_function_serves_evaluate(trained, forget, test_images, train_images):
    found = own_measures(["mine.py:confidence", "mine.py:counted"])
    data = {"test": test_images, "retain": train_images, "eval_samples": 4}
    row, _ = evaluate(trained, trained, forget, metrics=found, thumbnails=False, **data)
    assert row["confidence"] == row["confidence_before"] > 0
    assert row["counted"] == 80 + 160_000


@pytest.mark.parametrize("measure", [lambda classifier: 1.0, lambda *, given: 1.0, 3])
def test_what_cannot_be_called_with_both_is_refused_before_scoring(measure, trained, forget):
    def scored(*_: object) -> None:
        raise AssertionError("scored before it was refused")

    with pytest.raises(InputError, match="metric mine") as caught:
        evaluate(trained, trained, forget, metrics={"mine": measure}, progress=scored)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("other", ["before", "bare"])
def test_a_key_that_another_measure_has_for_another_network_is_refused(other, trained, forget):
    metrics = {"mine": lambda *_: 1.0, f"mine_{other}": lambda *_: 2.0}
    with pytest.raises(InputError, match=f"metric mine_{other}: .* this is mine of another"):
        evaluate(trained, trained, forget, other={"bare": trained}, metrics=metrics)


def test_a_measure_changes_nothing_of_the_callers(trained, forget):
    def spoil(classifier, given):
        given.forget.labels.zero_()
        given.forget.images.zero_()
        classifier.head.weight.zero_()
        return 1.0

    before = [t.clone() for t in (forget.labels, forget.images, trained.head.weight)]
    measured("spoil", spoil, trained, Given(forget))
    after = [forget.labels, forget.images, trained.head.weight]
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))


def test_measures_and_networks_of_another_kind_are_refused(trained, forget):
    with pytest.raises(InputError, match="metrics are a list; give a dict"):
        evaluate(trained, trained, forget, metrics=[lambda classifier, given: 1.0])
    other = trained.copy()
    other.class_names = ("a", "b", "c", "d")
    with pytest.raises(InputError, match="has other classes than the one before"):
        evaluate(trained, other, forget)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["mine:confidence"], ("mine:confidence", ".py:function")),
        (["none.py:confidence"], ("none.py",)),
        (["mine.py:nothing"], ("nothing", "mine.py")),
        (["mine.py:value"], ("value",)),
        (["mine.py:words"], ("words", "str")),
        (["mine.py:broken"], ("mine.py", "ZeroDivisionError")),
        (["mine.py:alone"], ("alone", "(classifier, given)")),
        (["mine.py:confidence"] * 2, ("confidence", "twice")),
    ],
)
def test_what_is_no_measure_is_refused_in_one_line(words, parts, trained, forget):
    with pytest.raises(InputError) as caught:
        tried(own_measures(words), trained, Given(forget))
    assert all(part in str(caught.value) for part in parts), caught.value
    assert "\n" not in str(caught.value)


def test_it_stands_in_the_row_before_and_after(capsys):
    words = "unlearn --model stakes:digits_cnn --weights random --data digits --forget random:2"
    words += " --method neggrad --max-steps 1 --eval-samples 5 --metric mine.py:confidence"
    assert cli.main(shlex.split(words + " --out OUT")) in (0, 3)
    said = capsys.readouterr().out
    row = json.loads(Path("OUT/row.json").read_text())
    assert 0 < row["confidence_before"] < 1
    assert 0 < row["confidence"] < 1
    assert own_keys(row) == ["confidence"]
    numbers = [f"{row[key]:.4g}" for key in ("confidence_before", "confidence")]
    assert re.search(rf"^confidence +{numbers[0]} +-> +{numbers[1]}$", said, re.MULTILINE)
    *_, table = Path("OUT/report.html").read_text().split("Your own measures")
    assert re.findall(r">([\d.]+)</td>", table.split("</table>")[0]) == numbers


def test_one_that_is_not_defined_is_null_and_the_row_stays_json(capsys):
    Classifier.load("stakes:digits_cnn", class_names=list("0123456789"), input_size=8).save("NET")
    words = "evaluate --model NET --unlearned NET --data digits --forget random:2 --eval-samples 5"
    assert cli.main(shlex.split(words + " --metric mine.py:undefined --out row.json")) == 0
    row = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert row["undefined"] is row["undefined_before"] is None
    assert row == json.loads(Path("row.json").read_text())


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


def test_a_measure_that_paints_over_its_images_changes_no_run(trained, forget):
    def darker(classifier, given):
        return given.forget.images.mul_(0.5).mean()

    before = forget.images.clone()
    measured("darker", darker, trained, Given(forget))
    assert torch.equal(forget.images, before)
