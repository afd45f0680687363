"""The command line: unlearn, evaluate, describe, anchors, sidecar, report, demo, bench.

A command's module is imported when it is called: most need torch, which takes seconds to import,
and ``stakes --help`` needs none.
"""

import io
import os
import select
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    nullcontext,
    redirect_stdout,
)
from importlib import import_module
from importlib.metadata import metadata
from typing import Any

from cyclopts import App, CycloptsError, Parameter

from stakes.errors import InputError, shortened
from stakes.runs.allocation import keep_freed_memory
from stakes.texts import expanded, printable

FAILED, USAGE_ERROR = 1, 2
COMPLETION = "--install-completion"
LONGEST = 600  # letters of a message
DIVIDED = ("unlearn", "evaluate")  # what several processes can do together
#: Command -> its module in this package, and what the list of commands says of it.
COMMANDS = {
    "unlearn": ("unlearn", "Make a network forget images."),
    "evaluate": (
        "evaluate",
        "Score an unlearned network against the original, on your own data.",
    ),
    "describe": (
        "anchors",
        "Have a language model describe your classes by visual attributes, for making anchors.",
    ),
    "anchors": ("anchors", "Make semantic anchors from class descriptions with a text encoder."),
    "sidecar": (
        "sidecar",
        "Make a sidecar of training data: statistics and synthetic images, to use once it is gone.",
    ),
    "report": ("report", "Make one page from one or several run folders."),
    "demo": (
        "demo",
        "Train a small network on digits, make it forget 16 of them with three methods, and "
        "report.",
    ),
    "bench": (
        "bench",
        "Run every network, method, k and seed of a recipe, each as one `stakes unlearn`; "
        "tabulate.",
    ),
}

EXAMPLE = """\
Example: a timm network, a folder of images to delete, and data to score on

    stakes unlearn --model timm:resnet18 --weights mine.safetensors \\
        --classes classes.txt --forget images_to_delete/ --data data/ --out OUT
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; an error is one line on standard error.

    Codes: 1 for what the machine refuses, 2 for input that cannot be used, 3 for a run that was
    written without having forgotten everything, 128 and the signal's number for an interruption,
    141 (that of SIGPIPE) where nobody reads what it prints.
    A fault of this package keeps its traceback, and says where to report it.
    """
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    # Before torch is imported: threads that wait for each other leave the cores to other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # ours, at less, is refused
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it is closed; no file of ours is to take its place
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 it stays open
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no letter ends a run
    app = App()
    try:
        with _terminable(), ExitStack() as stack:
            if asks_for_method(tokens):
                return 0
            with redirect_stdout(sys.stderr):  # a method of the user's own may print
                app = make_app(tokens)
            stack.enter_context(_joined(tokens))
            code = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
            sys.stdout.flush()  # here, where it is known what to do if nobody reads it
    except InputError as error:
        return _fail(USAGE_ERROR, str(error))
    except CycloptsError as error:
        from stakes.cli.refusals import usage  # here: it knows every method, hence torch

        return _fail(USAGE_ERROR, usage(error, app))
    except KeyboardInterrupt as error:
        number = error.args[0] if error.args else signal.SIGINT
        notes = ["interrupted", "nothing is half written", *_notes(error)]
        return _fail(128 + number, "; ".join(notes))
    except (RuntimeError, MemoryError) as error:
        if type(error).__name__ not in ("MemoryError", "OutOfMemoryError"):  # the latter: torch's
            return _fault(error)
        return _fail(FAILED, f"out of memory: {str(error) or 'a smaller --micro-batch needs less'}")
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _is_unread():
            return 128 + signal.SIGPIPE
        return _fail(FAILED, "; ".join([f"cannot continue: {error}", *_notes(error)]))
    except Exception as error:
        return _fault(error)
    return code if isinstance(code, int) else 0


def _is_unread() -> bool:
    """Whether standard output leads nowhere any more, such as to ``head``, which has ended."""
    outputs = select.poll()
    outputs.register(sys.stdout, 0)  # asks for errors alone
    unread = bool(outputs.poll(0))
    if unread:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
    return unread


def _notes(error: BaseException) -> list[str]:
    """What was added to an error on its way."""
    notes: list[str] = getattr(error, "__notes__", [])
    return notes


def _fail(code: int, message: str) -> int:
    line = printable(shortened(" ".join(message.split()), LONGEST))
    rank = os.environ.get("RANK", "0")
    if code != USAGE_ERROR or os.environ.get("LOCAL_RANK", "0") == "0":  # the same in all processes
        print(f"stakes: {'' if rank == '0' else f'process {rank}: '}{line}", file=sys.stderr)
    return code


def _fault(error: Exception) -> int:
    """A line, where code of the user's own failed; else the error, with its traceback."""
    from stakes.models.own_code import their_fault  # here: what there is to import is imported

    said = their_fault(error)
    if said is None:
        error.add_note(_ours())
        raise error
    return _fail(USAGE_ERROR, said)


def _ours() -> str:
    """What to do about a fault of this package."""
    about = metadata("stakes")
    keys = ("Project-URL", "Home-page", "Maintainer-email", "Maintainer", "Author")
    found = [value for key in keys for value in about.get_all(key) or ()]
    where = found[0].rpartition(", ")[2] if found else "its maintainers"
    return (
        f"This is a bug in stakes {about['Version']}, not a problem with your input. Please "
        f"report it, with the lines above and the command, to {where}; nothing is half written."
    )


def _joined(tokens: Sequence[str]) -> AbstractContextManager[None]:
    """Work with the other processes that torchrun started, if it did."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return nullcontext()
    if not tokens or tokens[0] not in DIVIDED:
        raise InputError(
            f"torchrun works only with stakes {' and '.join(DIVIDED)}: run this command without it"
        )
    from stakes.training.distributed import joined

    return joined()


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


def asks_for_method(tokens: Sequence[str]) -> bool:
    """Show the hyper-parameters of a method, where that is what is asked for.

    It goes before everything else: options that a run needs are not needed for this.
    """
    if "unlearn" not in tokens or not any(t.partition("=")[0] == "--help-method" for t in tokens):
        return False
    from stakes.cli.help_method import help_method
    from stakes.cli.options import value_after

    help_method(value_after(tokens, "--help-method") or "", value_after(tokens, "--preset"))
    return True


def make_app(tokens: Sequence[str]) -> App:
    """The application; the options of ``unlearn`` are those of the method that is asked for."""
    app = App(
        name="stakes",
        help="Make a trained image classifier forget given images, and show the evidence.",
        version_flags=["--version"],
        default_parameter=Parameter(negative_iterable=()),
        suppress_keyboard_interrupt=False,  # main() says what became of it
    )
    app.register_install_completion_command(
        COMPLETION,
        help="Set up tab completion, by adding a line to the shell's start-up file.",
    )
    for name, (module, about) in COMMANDS.items():
        path = f"stakes.cli.{module}"
        if name not in tokens and COMPLETION not in tokens:
            app.command(f"{path}:{name}", name=name, help=about)
        elif name == "unlearn":
            _add_unlearn(app, tokens)
        else:
            app.command(getattr(import_module(path), name))
    return app


def _add_unlearn(app: App, tokens: Sequence[str]) -> None:
    """The command with the options of the method that the command line, or its file, names."""
    from stakes.cli.options import check_keys, read_config, value_after, with_fields
    from stakes.cli.unlearn import unlearn

    config = value_after(tokens, "--config")
    file = {} if config is None else read_config(expanded(config))
    command = with_fields(
        unlearn,
        value_after(tokens, "--method") or str(file.get("method", "structguard")),
        value_after(tokens, "--preset") or file.get("preset"),
        command_line=shlex.join(["stakes", *tokens]),
    )
    app.command(command, name="unlearn", help_epilogue=EXAMPLE)
    if config is not None:
        from cyclopts.config import Dict

        check_keys(config, file, command)
        # under the command's name: at the top, keys called like a command would be dropped
        app.config = (Dict({"unlearn": file}, source=config, use_commands_as_keys=True),)
