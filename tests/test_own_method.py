"""A method of one's own package: by its class, by a file, and by an entry point."""

import json
from pathlib import Path

import pytest

from stakes import InputError, NegGrad
from stakes.cli.commands import main
from stakes.methods import method_class, method_name, method_names

pytestmark = pytest.mark.usefixtures("undrawn", "unattacked")

CODE = '''
from dataclasses import dataclass
from typing import ClassVar

from stakes.methods.base import ForgetSGD, ascent_terms, hyper


@dataclass(frozen=True, kw_only=True)
class Gentle(ForgetSGD):
    """Gradient ascent, gently."""

    title: ClassVar[str] = "Gentle"
    strength: float = hyper(0.5, "how gently")

    def unlearn(self, task):
        terms = ascent_terms(task, self.forget_batch)
        return self.fit(task, lambda batch: {"gentle": self.strength * terms(0)["deletion"]})


class NoMethod:
    pass
'''


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A package on the path, installed as far as its metadata goes."""
    site = tmp_path / "site"
    (site / "gentlepackage").mkdir(parents=True)
    (site / "gentlepackage" / "__init__.py").write_text("")
    (site / "gentlepackage" / "methods.py").write_text(CODE)
    info = site / "gentlepackage-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gentlepackage\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[stakes.methods]\ngentle = gentlepackage.methods:Gentle\n"
        "neggrad = gentlepackage.methods:Gentle\n"
    )
    monkeypatch.syspath_prepend(site)
    return site


def test_by_class_by_file_and_by_entry_point(package):
    by_class = method_class("gentlepackage.methods:Gentle")
    assert by_class.title == "Gentle"
    assert method_class("gentle") is by_class
    by_file = method_class(f"{package}/gentlepackage/methods.py:Gentle")
    assert by_file.title == "Gentle"
    assert method_name(by_file()) == ("methods.py:Gentle", None)
    assert method_name(by_class()) == ("gentle", None)


def test_it_stands_among_the_others_and_takes_no_name_of_ours(package):
    names = method_names()
    assert "gentle" in names
    assert names.count("neggrad") == 1
    assert method_class("neggrad") is NegGrad


def test_without_an_entry_point_its_name_is_where_it_is_written(package):
    (package / "gentlepackage-1.0.dist-info" / "entry_points.txt").unlink()
    assert "gentle" not in method_names()
    kind = method_class("gentlepackage.methods:Gentle")
    assert method_name(kind()) == ("gentlepackage.methods:Gentle", None)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gentlepackage.methods:NoMethod", "no method NoMethod"),
        ("gentlepackage.methods:Absent", "no method Absent"),
        ("gentlepackage.absent:Gentle", "no module gentlepackage.absent"),
        ("nowhere:Gentle", "no module nowhere"),
        ("gentler", "unknown; did you mean gentle"),
    ],
)
def test_what_is_no_method_is_refused(name, said, package):
    with pytest.raises(InputError, match=said):
        method_class(name)


MISTAKES = """
import torch
from stakes.methods.base import ForgetSGD


class Wrong(ForgetSGD):
    title = "Wrong"

    def unlearn(self, task):
        def loss(batch):
            logits = task.live(task.forget.images[batch])
            return {}

        return {}
"""


@pytest.mark.parametrize(
    ("loss", "returned", "said"),
    [
        ("logits.sum()", "self.fit(task, loss)", "the loss is a Tensor; return a dict of names"),
        ("{}", "self.fit(task, loss)", "the loss has no terms; return a dict"),
        ("{'a': 1.0}", "self.fit(task, loss)", "the loss term a is a float; return a dict"),
        ("{'a': logits[0]}", "self.fit(task, loss)", r"term a has the shape \(4,\); return a dict"),
        ("None", "self.fit(task, loss)", "the loss is a NoneType; return a dict"),
        (
            "{'a': logits.sum()}",
            "task.descend(lambda step: loss([0]), torch.optim.LBFGS(task.live.parameters()), 1)",
            "LBFGS passes .* needs no closure",
        ),
        ("{}", "task.result([], None)", "task.result takes the history"),
        ("{}", "task.result([{'step': 0.0}], None)", "and the Ending"),
    ],
)
def test_a_mistake_in_ones_own_method_is_one_line(
    loss, returned, said, classifier, forget, tmp_path
):
    code = tmp_path / "mine.py"
    code.write_text(MISTAKES.format(loss, returned))
    with pytest.raises(InputError, match=said) as refused:
        method_class(f"{code}:Wrong")()(classifier, forget)
    assert "\n" not in str(refused.value)


def test_the_help_of_a_method_without_a_docstring(tmp_path, capsys):
    code = tmp_path / "mine.py"
    code.write_text(MISTAKES.format("{}", "None"))
    assert main(["unlearn", "--help-method", f"{code}:Wrong"]) == 0
    assert "Wrong needs no other data." in capsys.readouterr().out


@pytest.mark.parametrize("name", ["gentle", "site/gentlepackage/methods.py:Gentle"])
def test_the_command_runs_it_with_its_own_options(name, package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "unlearn --model stakes:digits_cnn --weights random --data digits --forget random:4"
    out = tmp_path / "out"
    more = ["--method", name, "--strength", "0.25", "--max-steps", "2", "--eval-samples", "4"]
    code = main([*words.split(), *more, "--no-images", "--quiet", "--out", str(out)])
    assert code in (0, 3)
    row = json.loads((out / "row.json").read_text())
    assert (row["method"], row["method_title"]) == (name, "Gentle")
    assert (f"<dd>{name}</dd>" in (out / "report.html").read_text()) == (":" in name)
    assert (row["method_strength"], row["method_max_steps"]) == (0.25, 2)
