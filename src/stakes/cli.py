"""The command line: unlearn, evaluate, anchors, report, demo."""

import dataclasses
import difflib
import inspect
import json
import shlex
import sys
import tomllib
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Group, Parameter
from cyclopts.config import Toml

from stakes.anchors import build
from stakes.classifier import Classifier
from stakes.demo import run_demo
from stakes.errors import InputError
from stakes.evaluate import evaluate as score
from stakes.files import write_text
from stakes.inputs import Inputs, load
from stakes.methods import METHODS
from stakes.progress import Terminal
from stakes.record import Request, check_out, run
from stakes.report import write_report

USAGE_ERROR, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; an error is one line on standard error."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app = make_app(tokens)
        app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except (InputError, CycloptsError) as error:
        print(f"stakes: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("stakes: interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED
    return 0


def make_app(tokens: Sequence[str]) -> App:
    """The application; the options of ``unlearn`` are those of the method that is asked for."""
    app = App(
        name="stakes",
        help="Make a trained image classifier forget given pictures, and show the evidence.",
        version_flags=["--version"],
    )
    config = _after(tokens, "--config")
    file = {} if config is None else _read_config(Path(config))
    command = _unlearn_with(
        _after(tokens, "--method") or str(file.get("method", "structguard")),
        _after(tokens, "--preset") or file.get("preset"),
    )
    app.command(command, name="unlearn")
    for other in (evaluate, anchors, report, demo):
        app.command(other)
    if config is not None:
        _check_keys(config, file, inspect.signature(command))
        app.config = (Toml(config, use_commands_as_keys=False),)
    return app


def unlearn(
    *,
    inputs: Inputs,
    out: Path,
    method: str = "structguard",
    preset: str | None = None,
    eval_samples: int | None = None,
    images: bool = True,
    overwrite: bool = False,
    config: Path | None = None,
    **fields: Any,
) -> None:
    """Make a network forget pictures: writes OUT/model.safetensors, row.json and report.html.

    The hyper-parameters below are those of --method; add --method NAME before --help for another.

    Args:
        inputs: the network, the pictures, and what there is to score on.
        out: folder to write; it appears when everything is done.
        method: how to forget.
        preset: a named set of hyper-parameters of the method; options still override it.
        eval_samples: score at most this many test and retained images; all by default.
        images: show the forget images in the report; --no-images leaves them out.
        overwrite: replace OUT if it holds an earlier run.
        config: a TOML file with any of these options; the command line goes before it.
        fields: hyper-parameters of the method.
    """
    chosen = METHODS[method](**fields)
    check_out(out, overwrite)
    loaded = load(inputs)
    train = None if loaded.splits is None else loaded.splits.train
    if chosen.needs_retain and train is None:
        raise InputError(f"--method {method} needs retained training data: add --data")
    asked = {
        "dataset": inputs.data,
        "forget": inputs.forget,
        "weights": None if inputs.weights is None else str(inputs.weights),
        "preset": preset,
        "command": shlex.join(["stakes", *sys.argv[1:]]),
    }
    request = Request(
        chosen,
        loaded.classifier,
        loaded.forget,
        loaded.anchors,
        retain=train,
        test=None if loaded.splits is None else loaded.splits.test,
        seed=inputs.seed,
        eval_samples=eval_samples,
        thumbnails=images,
        asked=asked,
    )
    with Terminal() as progress:
        row = run(request, out, progress)
    print(_summary(row))
    print(f"model   {out / 'model.safetensors'}\nreport  {out / 'report.html'}")


def evaluate(
    *,
    inputs: Inputs,
    unlearned: Path,
    eval_samples: int | None = None,
    out: Path | None = None,
) -> None:
    """Score a network that was made to forget, on your own data, against the original.

    Args:
        inputs: the original network, the pictures it was to forget, and the data to score on.
        unlearned: the folder that `stakes unlearn` wrote, or its model.safetensors.
        eval_samples: score at most this many test and retained images; all by default.
        out: a .json file for the row; printed in any case.
    """
    loaded = load(inputs)
    after = Classifier.load(str(unlearned), device=str(loaded.classifier.device))
    if after.class_names != loaded.classifier.class_names:
        raise InputError(f"{unlearned} has other classes than --model {inputs.model}")
    with Terminal() as progress:
        row, _ = score(
            loaded.classifier,
            after,
            loaded.forget,
            test=None if loaded.splits is None else loaded.splits.test,
            retain=None if loaded.splits is None else loaded.splits.train,
            eval_samples=eval_samples,
            seed=inputs.seed,
            report=progress,
        )
    row |= {"weights_digest": loaded.classifier.digest(), "unlearned_digest": after.digest()}
    row |= {"forget_digest": loaded.forget.digest(), "k": len(loaded.forget), "seed": inputs.seed}
    if out is not None:
        write_text(out, json.dumps(row, indent=1) + "\n")
    print(json.dumps(row, indent=1))


def anchors(
    *,
    descriptions: Path,
    encoder: str,
    encoder_path: str,
    out: Path,
    download: bool = False,
    overwrite: bool = False,
) -> None:
    """Make semantic anchors from class descriptions with a text encoder.

    Args:
        descriptions: JSON file: class name to a list of visual attributes.
        encoder: clip, siglip or sbert.
        encoder_path: a local transformers folder, or a hub name with --download.
        out: .safetensors file to write.
        download: fetch the encoder if it is not there.
        overwrite: replace OUT.
    """
    made = build(descriptions, encoder, encoder_path, out, download=download, overwrite=overwrite)
    count, width = made.vectors.shape
    print(f"{count} anchors, {width} wide, digest {made.digest()[:12]}: {out}")


def report(*runs: Path, out: Path, title: str | None = None) -> None:
    """Make one page from one or several run folders.

    Args:
        runs: folders that `stakes unlearn` wrote.
        out: HTML file to write.
        title: heading of the page.
    """
    if not runs:
        raise InputError("stakes report: name at least one run folder")
    print(write_report(list(runs), out, title=title))


def demo(*, out: Path = Path("demo"), overwrite: bool = False, seed: int = 0) -> None:
    """Train a small network on digits, make it forget 16 of them by three methods, and report.

    Args:
        out: folder to write.
        overwrite: replace OUT if it holds an earlier demo.
        seed: of every random choice.
    """
    with Terminal() as progress:
        page = run_demo(out, overwrite=overwrite, seed=seed, report=progress)
    print(f"report  {page}")


def _unlearn_with(name: str, preset: str | None) -> Callable[..., None]:
    """``unlearn`` with the method's hyper-parameters as options, the preset's as defaults."""
    if name not in METHODS:
        raise InputError(f"--method {name} is unknown{_nearest(name, METHODS)}")
    kind = METHODS[name]
    if preset is not None and preset not in kind.presets:
        raise InputError(f"--preset {preset}: {name} has {', '.join(kind.presets) or 'none'}")
    defaults = kind() if preset is None else getattr(kind, preset)()
    group = Group(f"Hyper-parameters of {kind.title}", sort_key=9)
    hints = typing.get_type_hints(kind)
    signature = inspect.signature(unlearn)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    for item in dataclasses.fields(kind):
        source = item.metadata["source"]
        text = item.metadata["doc"] + (f" ({source})" if source else "")
        option = inspect.Parameter(
            item.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=getattr(defaults, item.name),
            annotation=Annotated[hints[item.name], Parameter(help=text, group=group)],
        )
        own.append(option)

    def command(**options: Any) -> None:
        given = {item.name: item.default for item in own if item.default is not item.empty}
        unlearn(**(given | options))

    command.__doc__ = unlearn.__doc__
    command.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
    return command


def _read_config(path: Path) -> dict[str, Any]:
    """The options of a TOML file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path} is not TOML: {error}") from error


def _check_keys(path: str, keys: Iterable[str], signature: inspect.Signature) -> None:
    """Refuse an option that ``unlearn`` does not have, and name the nearest."""
    own = {*signature.parameters, *(item.name for item in dataclasses.fields(Inputs))} - {"inputs"}
    known = [name.replace("_", "-") for name in own]
    for key in keys:
        if key.replace("_", "-") not in known:
            raise InputError(f"--config {path}: unknown option {key}{_nearest(key, known)}")


def _after(tokens: Sequence[str], option: str) -> str | None:
    """The value that follows ``option``, or None."""
    for index, token in enumerate(tokens):
        if token == option and index + 1 < len(tokens):
            return tokens[index + 1]
        if token.startswith(f"{option}="):
            return token.partition("=")[2]
    return None


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1, 0.4)
    return f"; did you mean {near[0]}?" if near else f"; choose one of {', '.join(known)}"


def _summary(row: dict[str, Any]) -> str:
    """The main numbers, a line each."""

    def change(key: str) -> str:
        before, after = row[f"{key}_before"], row[key]
        return "not measured" if after is None else f"{before:6.2f} % -> {after:6.2f} %"

    return "\n".join(
        [
            f"{row['method_title']}: {row['stop_reason']} ({row['steps']} steps)",
            f"forget images recognised    {change('acc_forget')}",
            f"test accuracy               {change('acc_test')}",
            f"retained accuracy           {change('acc_retain')}",
            f"mirrored images recognised  {change('forget_flip')}",
        ]
    )
