"""The options of a command that are no arguments of its own: a method's fields, and a file."""

import inspect
import tomllib
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from stakes.errors import InputError, first_line, nearest
from stakes.methods import PRESETS, method_class, method_names
from stakes.methods.fields import allowed, explained
from stakes.runs.inputs import Inputs, RunOptions
from stakes.runs.words import TO_FORGET, number
from stakes.texts import read_text

Command = Callable[..., int | None]


def with_fields(command: Command, name: str, preset: str | None, **fixed: Any) -> Command:
    """A command that also takes the hyper-parameters of a method, the preset's as defaults.

    Args:
        command: takes ``method``, ``preset`` and, as ``**fields``, any hyper-parameters.
        name: of the method.
        preset: of the method; or None.
        fixed: arguments of the command that are no options.

    Raises:
        InputError: no such method, or no such preset of it.
    """
    kind, presets = method_class(name, preset), tuple(PRESETS.get(name, ()))
    choices: dict[str, Any] = {
        "method": Annotated[Literal[tuple(dict.fromkeys([*method_names(), name]))], TO_FORGET],
        "preset": Annotated[Literal[presets] | None if presets else str | None, TO_FORGET],
    }
    own = [
        item.replace(annotation=choices.get(item.name, item.annotation))
        for item in inspect.signature(command).parameters.values()
        if item.kind is not item.VAR_KEYWORD and item.name not in fixed
    ]
    defaults = kind()
    group = Group(f"Hyper-parameters of {kind.title}", show=False)  # --help-method shows them
    hints = typing.get_type_hints(kind)
    for field in fields(kind):
        hint = hints[field.name]
        read = number(hint, allowed(field, hint)) if hint in (int, float) else None
        about = Parameter(help=explained(field), group=group, converter=read)
        option = inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=getattr(defaults, field.name),
            annotation=Annotated[hint, about],
        )
        own.append(option)

    def full(**options: Any) -> int | None:
        given = {item.name: item.default for item in own if item.default is not item.empty}
        return command(**(given | options), **fixed)

    full.__doc__ = command.__doc__
    full.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
    full.__annotations__ = {item.name: item.annotation for item in own}
    return full


def read_config(path: Path) -> dict[str, Any]:
    """The options of a TOML file.

    Raises:
        InputError: it cannot be read, or is not TOML.
    """
    text = read_text(path, "--config").removeprefix("\ufeff")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # the latter: thousands of brackets
        raise InputError(
            f"--config {path} is not TOML ({first_line(error)}); write a line such as lr = 0.001"
        ) from error


def check_keys(path: str, keys: Iterable[str], command: Command) -> None:
    """Refuse what the command does not have as an option, and name the nearest.

    Raises:
        InputError: there is such a key.
    """
    own = {*inspect.signature(command).parameters} - {"inputs", "options", "config"}
    own |= {item.name for kind in (Inputs, RunOptions) for item in fields(kind)}
    known = sorted(name.replace("_", "-") for name in own)
    for key in keys:
        if key.replace("_", "-") not in known:
            raise InputError(f"--config {path}: unknown option {key}{nearest(key, known)}")


def value_after(tokens: Sequence[str], option: str) -> str | None:
    """The value of an option in a command line that is not parsed yet, or None.

    >>> value_after(["unlearn", "--method", "adv", "--seed=3"], "--seed")
    '3'
    """
    for index, token in enumerate(tokens):
        if token == option and index + 1 < len(tokens):
            return tokens[index + 1]
        if token.startswith(f"{option}="):
            return token.partition("=")[2]
    return None
