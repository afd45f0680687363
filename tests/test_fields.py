"""Hyper-parameters: declared once, and checked the same way wherever a value comes from."""

import copy
import dataclasses
import math
import pickle
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest

from stakes import InputError
from stakes.cli import commands as cli
from stakes.methods import METHODS
from stakes.methods.fields import MOST, allowed, check, hyper
from stakes.methods.structguard import StructGuardPaper

NAN, INF = math.nan, math.inf
ODD = (0, -1, 2.5, NAN, INF, -INF, 1e38, 10**11, 10**5000, "text", "", True, None, [1], object())
FIELDS = [
    pytest.param(name, item, id=f"{name}.{item.name}")
    for name, kind in METHODS.items()
    for item in dataclasses.fields(kind)
]


@pytest.mark.parametrize(("name", "item"), FIELDS)
def test_every_field_takes_what_it_allows_and_refuses_the_rest_in_one_line(name, item):
    method = METHODS[name]()
    hint = get_type_hints(METHODS[name])[item.name]
    for value in ODD:
        try:
            changed = dataclasses.replace(method, **{item.name: value})
        except InputError as error:
            line = str(error)
            assert "\n" not in line
            assert len(line) < 300
            if is_fine(hint, item, value):  # only together with other settings
                assert "set " in line or "give" in line
            else:
                assert line.startswith(f"{item.name}=")
                assert line.endswith(f": give {allowed(item, hint)}")
        else:
            assert is_fine(hint, item, value)
            stored = getattr(changed, item.name)
            assert stored == value
            assert type(stored) is type(getattr(method, item.name))


def is_fine(hint: object, item: dataclasses.Field, value: object) -> bool:
    """The bounds of the declaration, once more and in the plainest way."""
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if hint in (bool, str):
        return isinstance(value, hint)
    kinds = (int,) if hint is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        return False
    about = item.metadata
    least = about["low"] is None or value >= about["low"]
    return least and (about["above"] is None or value > about["above"]) and value <= about["high"]


@pytest.mark.parametrize("name", [n for n, kind in METHODS.items() if dataclasses.fields(kind)])
def test_an_unknown_name_is_refused_with_the_nearest(name):
    some_field = dataclasses.fields(METHODS[name])[0].name
    with pytest.raises(InputError, match=f"did you mean {some_field}"):
        METHODS[name](**{f"{some_field}s": 1})
    with pytest.raises(InputError, match="has no hyper-parameter no_such_thing"):
        METHODS[name](no_such_thing=1)


def test_numbers_of_numpy_are_numbers():
    method = METHODS["neggrad"](max_steps=np.int64(7), lr=np.float32(0.5), momentum=0)
    assert (method.max_steps, method.lr, method.momentum) == (7, 0.5, 0.0)
    assert [type(v) for v in (method.max_steps, method.lr, method.momentum)] == [int, float, float]
    with pytest.raises(InputError, match="max_steps="):
        METHODS["neggrad"](max_steps=np.float64(2.0))


def test_methods_are_copied_and_pickled_as_they_are():
    method = StructGuardPaper(lr=0.25)
    for again in (copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        assert again == method


def test_bounds_of_a_declaration_are_kept():
    @dataclasses.dataclass(frozen=True)
    class Settings:
        share: float = hyper(0.5, "a share", above=0, high=1)
        count: int = hyper(3, "a number of things", low=2)

    assert check(Settings, {"share": 1, "count": 2}) == {"share": 1.0, "count": 2}
    for wrong in ({"share": 0.0}, {"share": 1.01}, {"count": 1}, {"count": MOST[int] + 1}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            check(Settings, {"share": 0.5, "count": 3} | wrong)


@pytest.mark.parametrize("wrong", [NAN, INF, -INF])
def test_a_field_without_a_declaration_takes_finite_numbers_alone(wrong):
    @dataclasses.dataclass(frozen=True)
    class Settings:
        share: float = 0.5

    assert check(Settings, {"share": -1e38}) == {"share": -1e38}
    with pytest.raises(InputError, match=r"share=.*: give a number"):
        check(Settings, {"share": wrong})


@pytest.mark.parametrize("text", ["2.5", "nan", "inf", "1e38", "text", "-1", "", "9" * 5000])
def test_the_command_line_says_the_same_as_the_constructor(text, capsys):
    words = ["unlearn", "--model", "m", "--forget", "f", "--out", "o", "--method", "neggrad"]
    assert cli.main([*words, f"--forget-batch={text}"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "give a whole number from 1 to 10000000" in line
    assert len(line) < 700


def test_the_help_states_meaning_bounds_and_source(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "160")
    assert cli.main(["unlearn", "--help-method", "neggrad"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--momentum 0.9 momentum of SGD (public code of L2UL) a number from 0 to 1" in shown
