"""The command line: unlearn, evaluate, describe, anchors, report, demo, bench."""

import io
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Dict
from torch import OutOfMemoryError

from stakes.cli.anchors import anchors, describe
from stakes.cli.bench import bench
from stakes.cli.demo import demo
from stakes.cli.evaluate import evaluate
from stakes.cli.options import check_keys, read_config, value_after, with_fields
from stakes.cli.refusals import usage
from stakes.cli.report import report
from stakes.cli.unlearn import unlearn
from stakes.errors import InputError, shortened
from stakes.texts import expanded, printable

FAILED, USAGE_ERROR = 1, 2
LONGEST = 600  # letters of a message


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; an error is one line on standard error.

    Codes: 1 for what the machine refuses, 2 for input that cannot be used, 3 for a run that was
    written without having forgotten everything, 128 and the signal's number for an interruption.
    """
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no letter ends a run
    app = App()
    try:
        with _terminable():
            app = make_app(tokens)
            code = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except InputError as error:
        return _fail(USAGE_ERROR, str(error))
    except CycloptsError as error:
        return _fail(USAGE_ERROR, usage(error, app))
    except KeyboardInterrupt as error:
        number = error.args[0] if error.args else signal.SIGINT
        notes = ["interrupted", "nothing is half written", *getattr(error, "__notes__", [])]
        return _fail(128 + number, "; ".join(notes))
    except (OutOfMemoryError, MemoryError) as error:
        return _fail(FAILED, f"out of memory: {str(error) or 'smaller batches need less'}")
    except OSError as error:
        return _fail(FAILED, f"cannot continue: {error}")
    return code if isinstance(code, int) else 0


def _fail(code: int, message: str) -> int:
    line = printable(shortened(" ".join(message.split()), LONGEST))
    print(f"stakes: {line}", file=sys.stderr)
    return code


@contextmanager
def _terminable() -> Iterator[None]:
    """A polite end (SIGTERM) is an interruption too, so that what was begun is tidied up."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are not ours there
        return

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def make_app(tokens: Sequence[str]) -> App:
    """The application; the options of ``unlearn`` are those of the method that is asked for."""
    app = App(
        name="stakes",
        help="Make a trained image classifier forget given images, and show the evidence.",
        version_flags=["--version"],
        default_parameter=Parameter(negative_iterable=()),
        suppress_keyboard_interrupt=False,  # main() says what became of it
    )
    config = value_after(tokens, "--config")
    file = {} if config is None else read_config(expanded(config))
    command = with_fields(
        unlearn,
        value_after(tokens, "--method") or str(file.get("method", "structguard")),
        value_after(tokens, "--preset") or file.get("preset"),
        command_line=shlex.join(["stakes", *tokens]),
    )
    app.command(command, name="unlearn")
    for other in (evaluate, describe, anchors, report, demo, bench):
        app.command(other)
    if config is not None:
        check_keys(config, file, command)
        # under the command's name: at the top, keys called like a command would be dropped
        app.config = (Dict({"unlearn": file}, source=config, use_commands_as_keys=True),)
    return app
