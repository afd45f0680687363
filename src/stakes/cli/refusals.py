"""What is wrong with a command line, in one line with a way out."""

from collections.abc import Sequence
from dataclasses import fields
from typing import get_args

from cyclopts import App, CycloptsError
from cyclopts.exceptions import (
    CoercionError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from stakes.errors import nearest, shortened, some
from stakes.methods import METHODS
from stakes.runs.words import said


def usage(error: CycloptsError, app: App) -> str:
    """The message for an error of the command line."""
    match error:
        case CoercionError() if error.msg is not None and error.token is not None:
            return str(error.msg)  # a converter of ours has said it all
        case CoercionError() if error.token is not None:
            return _value(error)
        case MissingArgumentError():
            return _missing(error, app)
        case RepeatArgumentError():
            return f"{error.token.keyword} is given twice; give it once"
        case UnknownOptionError():
            return _option(error)
        case UnknownCommandError():
            word = (error.unused_tokens or [""])[0]
            return f"there is no command {shortened(word)}{nearest(word, commands(app))}"
        case UnusedCliTokensError():
            return (
                f"{some(error.unused_tokens or [])} belongs to no option; put the option's name "
                "before it, and quotes around what has a space in it"
            )
    name = "" if error.argument is None else f"{error.argument.name}: "
    return f"{name}{str(error).rstrip('.')}; see --help"


def commands(app: App) -> list[str]:
    """The names of the commands."""
    return [name for name in app if not name.startswith("-")]


def _value(error: CoercionError) -> str:
    assert error.token is not None
    choices = [str(choice) for choice in get_args(error.target_type) if isinstance(choice, str)]
    if choices:
        return f"{said(error.token)}: give one of {', '.join(choices)}"
    names: dict[object, str] = {bool: "true or false", float: "a number"}
    return f"{said(error.token)}: give {names.get(error.target_type, 'another value')}"


def _missing(error: MissingArgumentError, app: App) -> str:
    """Every option that is missing at once, and not one after the other."""
    assert error.argument is not None
    name, given = error.argument.name, list(error.root_input_tokens or [])
    called = error.command_chain[-1] if error.command_chain else "stakes"
    command = app[called] if error.command_chain else app
    if error.keyword is not None or name in given:
        count, _ = error.argument.token_count()
        values = "a value" if count == 1 else f"{count} values"
        return f"{error.keyword or name} needs {values} after it; see stakes {called} --help"
    known = command.assemble_argument_collection()
    needed = [item for item in known if item.required and item.name.startswith("--")]
    wanted = [item.name for item in needed if not _is_given(item.names, given)]
    return (
        f"{called} needs {' and '.join(some(wanted, 9).rsplit(', ', 1))}; "
        f"see stakes {called} --help"
    )


def _is_given(names: Sequence[str], tokens: Sequence[str]) -> bool:
    return any(token.partition("=")[0] in names for token in tokens)


def _option(error: UnknownOptionError) -> str:
    word = (error.token.keyword or error.token.value).partition("=")[0]
    field = word.removeprefix("--").removeprefix("no-").replace("-", "_")
    known = [name for item in error.argument_collection if item.parse for name in item.names]
    end = nearest(word, [name for name in known if name.startswith("--")])
    if not end.startswith("; choose"):  # of a hundred: more than a line could hold
        return f"unknown option {shortened(word)}{end}"
    owners = [name for name, kind in METHODS.items() if field in {f.name for f in fields(kind)}]
    if owners:
        return f"{word} is not an option of this method, but of {some(owners, 4)}: add --method"
    return f"unknown option {shortened(word)}; --help lists the options"
