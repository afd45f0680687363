"""Each option of ``stakes unlearn`` means the same in a file as on the command line."""

import dataclasses
import inspect
from typing import Any

import pytest

from stakes.cli.commands import make_app
from stakes.methods import METHODS
from stakes.runs.inputs import Inputs, RunOptions

VALUES: dict[str, Any] = {
    "model": "timm:resnet18", "forget": "random:2", "data": "digits", "anchors": "head",
    "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": "8x9", "resize": "pad",
    "interpolation": "nearest", "crop_share": 0.5, "device": "cpu", "max_memory": 2.5, "seed": 7,
    "classes": "c.txt", "transform": "t.py:make", "weights_key": "ema", "eval_samples": 5,
    "micro_batch": 3, "metric": ["m.py:f"], "surrogates": "folder", "sidecar": "s.safetensors",
    "reference": "r", "weights": "w.pt", "data_root": "root", "out": "OUT",
}  # fmt: skip
OWN = ("method", "preset", "config", "inputs", "options")  # decided before the others are read


def value_of(name: str, default: Any, choices: tuple[Any, ...] = ()) -> Any:
    """A value that is not the default."""
    if name in VALUES:
        return VALUES[name]
    if isinstance(default, bool):
        return not default
    if choices:
        return next(choice for choice in choices if choice != default)
    return default + 1 if isinstance(default, int) else default / 2 + 0.01


def options() -> dict[str, Any]:
    """Every option but those in OWN, and a value for it."""
    from stakes.cli.unlearn import unlearn

    found = {}
    for kind in (Inputs, RunOptions):
        for item in dataclasses.fields(kind):
            found[item.name] = value_of(item.name, item.default)
    for name, item in inspect.signature(unlearn).parameters.items():
        if name not in (*OWN, "command_line", "fields"):
            found[name] = value_of(name, item.default)
    for item in dataclasses.fields(METHODS["structguard"]):
        choices = getattr(item.type, "__args__", ())
        found[item.name] = value_of(item.name, item.default, choices)
    return found


def words(name: str, value: Any) -> list[str]:
    """The option on the command line."""
    option = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [option if value else f"--no-{option[2:]}"]
    values = value if isinstance(value, list) else [value]
    return [option, *map(str, values)]


def toml(name: str, value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')
    return f"{name} = {text}\n"


def flat(arguments: dict[str, Any]) -> dict[str, Any]:
    """Option -> what it is bound to; ``config`` left out."""
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        found |= vars(value) if dataclasses.is_dataclass(value) else {name: value}
    return {name: value for name, value in found.items() if name != "config"}


def parsed(tokens: list[str]) -> dict[str, Any]:
    """What the command would be called with."""
    tokens = ["unlearn", *tokens]
    _, bound, *_ = make_app(tokens).parse_args(tokens, exit_on_error=False, print_error=False)
    return flat(bound.arguments)


NEEDS = ("model", "forget", "out")
NEEDED = [word for key in NEEDS for word in words(key, VALUES[key])]


@pytest.mark.parametrize("sign", ["_", "-"])
def test_options_in_a_file_are_those_on_the_command_line(sign, tmp_path):
    given = options()
    file = tmp_path / "o.toml"
    file.write_text("".join(toml(name.replace("_", sign), given[name]) for name in given))
    line = [word for name in given for word in words(name, given[name])]
    filed, plain, bare = parsed(["--config", str(file)]), parsed(line), parsed(NEEDED)
    assert filed == plain
    assert filed.keys() >= given.keys()
    assert not [name for name in given if filed[name] == bare.get(name) and name not in NEEDS]


@pytest.mark.parametrize(("name", "value"), [("method", "neggrad"), ("preset", "paper")])
def test_a_method_in_a_file_is_that_on_the_command_line(name, value, tmp_path):
    file = tmp_path / "o.toml"
    file.write_text(toml(name, value))
    filed = parsed([*NEEDED, "--config", str(file)])
    assert filed == parsed([*NEEDED, f"--{name}", value])
    assert filed[name] == value
