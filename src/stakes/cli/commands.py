"""The command line: unlearn, evaluate, describe, anchors, report, demo, bench."""

import io
import json
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Dict
from torch import OutOfMemoryError

from stakes.anchors.anchors import build
from stakes.anchors.descriptions import read_classes
from stakes.anchors.language_model import PromptKind
from stakes.anchors.language_model import describe as describe_classes
from stakes.cli.options import check_keys, read_config, value_after, with_fields
from stakes.cli.refusals import usage
from stakes.data.datasets import DATASETS
from stakes.data.folders import left_out
from stakes.errors import InputError, check_seed, shortened, some
from stakes.evaluation.evaluate import evaluate as score
from stakes.files import check_file, write_text
from stakes.manifest import MANIFEST, check_manifest, renew
from stakes.methods import method_class
from stakes.models.agreement import compared
from stakes.models.cards import made_by
from stakes.models.classifier import Classifier
from stakes.preprocessing import in_words
from stakes.progress import Terminal, silent
from stakes.runs.folder import check_apart, check_out, resumable
from stakes.runs.inputs import RANDOM, Inputs, Loaded, load
from stakes.runs.recipe import read_recipe, shipped_recipes
from stakes.runs.record import Request, record
from stakes.runs.sound import INCOMPLETE, incomplete
from stakes.runs.words import Place, Switch, Whole
from stakes.texts import expanded, printable

FAILED, USAGE_ERROR = 1, 2
#: Files of a run that need not go with its network to whoever scores it again.
NOT_DELIVERED = (
    "row.json", "history.jsonl", "evidence.json", "stakes.safetensors", "report.html",
)  # fmt: skip
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


def unlearn(
    *,
    inputs: Inputs,
    out: Place,
    method: str = "structguard",
    preset: str | None = None,
    eval_samples: Whole | None = None,
    images: bool = True,
    overwrite: Switch = False,
    force: Switch = False,
    quiet: Switch = False,
    json: Switch = False,
    config: Place | None = None,
    command_line: str = "",
    **fields: Any,
) -> int:
    """Make a network forget images.

    OUT gets model.safetensors, row.json (the numbers), history.jsonl (each step) and report.html
    (the evidence). If not everything was forgotten, the exit code is 3. The hyper-parameters below
    are those of --method: see another's by `stakes unlearn --method NAME --help`. If interrupted,
    run the same command again to resume.

    Args:
        inputs: the network, the images, and what there is to score on.
        out: folder to write; it appears when everything is done
        method: how to forget
        preset: named settings of the method; single options still override them
        eval_samples: score at most this many test and as many retained images; by default all
        images: show the forget images in the report, or leave them out
        overwrite: replace OUT if it holds an earlier run
        force: go on even where the network recognises less than half of the images
        quiet: no progress, and nothing on standard output but what --json asks for
        json: print the row as JSON in place of the summary
        config: a TOML file with any of these options; the command line goes before it
        command_line: the command as it was given, for the row.
        fields: hyper-parameters of the method.
    """
    chosen = method_class(method, preset)(**fields)
    check_out(out, overwrite)
    check_apart(out, inputs.forget, inputs.data)
    _check_delivered(Path(inputs.model))
    if chosen.needs_retain and inputs.data is None:
        raise InputError(f"--method {method} needs retained training data: add --data")
    loaded = load(inputs)
    if not quiet:
        _announce(loaded, inputs.data)
    asked = {
        "dataset": inputs.data,
        "forget": inputs.forget,
        "weights": loaded.classifier.weights,
        **compared(loaded.agreement),
        "preset": preset,
        "command": command_line,
    }
    request = Request(
        chosen,
        loaded.classifier,
        loaded.forget,
        loaded.anchors,
        retain=None if loaded.splits is None else loaded.splits.train,
        test=None if loaded.splits is None else loaded.splits.test,
        seed=inputs.seed,
        eval_samples=eval_samples,
        thumbnails=images,
        force=force or str(inputs.weights) == RANDOM,
        asked=asked,
    )
    try:
        with Terminal() as shown:
            progress = silent if quiet else shown
            row = record(request, out, progress, overwrite=overwrite)
    except KeyboardInterrupt as stopped:
        if resumable(out):
            stopped.add_note("run the same command again to resume")
        raise
    if json:
        _print_json(row)
    elif not quiet:
        print(_summary(row))
        print(f"model   {out / 'model.safetensors'}\nreport  {out / 'report.html'}")
    return INCOMPLETE if incomplete(row) else 0


def _print_json(row: Mapping[str, Any]) -> None:
    print(json.dumps(row, indent=1))


def _announce(loaded: Loaded, data: str | None) -> None:
    """Say on standard error what is about to be used, defaults among it, and what is left out."""
    classifier, anchors = loaded.classifier, loaded.anchors
    dropped = f" ({loaded.forget.dropped} copies left out)" if loaded.forget.dropped else ""
    print(
        f"{classifier.spec}, {classifier.num_classes} classes, on {classifier.device}; "
        f"weights {classifier.weights}; anchors {anchors.card.get('name') or 'unnamed'}; "
        f"{len(loaded.forget)} images to forget{dropped}; "
        f"preprocessing: {in_words(classifier.preprocessing)}",
        file=sys.stderr,
    )
    if data is not None and data not in DATASETS and (unused := left_out(expanded(data))):
        print(printable(f"--data {data}: left out are {some(unused)}"), file=sys.stderr)
    if loaded.agreement is not None:
        print(f"preprocessing checked: {loaded.agreement}", file=sys.stderr)


def evaluate(
    *,
    inputs: Inputs,
    unlearned: Place,
    eval_samples: Whole | None = None,
    out: Place | None = None,
    overwrite: Switch = False,
) -> None:
    """Score a network that was made to forget, on your own data, against the original.

    Prints the row as JSON.

    Args:
        inputs: the original network, the images it was to forget, and the data to score on.
        unlearned: the folder that `stakes unlearn` wrote, or its model.safetensors
        eval_samples: score at most this many test and as many retained images; by default all
        out: a .json file for the row as well
        overwrite: replace that file
    """
    if out is not None:
        check_file(out, overwrite)
    _check_delivered(Path(inputs.model))
    _check_delivered(unlearned)
    loaded = load(inputs, unlearned)
    before = loaded.classifier
    after = _reload(unlearned, before)
    if after.class_names != before.class_names:
        raise InputError(f"{unlearned} has other classes than --model {inputs.model}")
    with Terminal() as progress:
        row, _ = score(
            before,
            after,
            loaded.forget,
            test=None if loaded.splits is None else loaded.splits.test,
            retain=None if loaded.splits is None else loaded.splits.train,
            other=_without_parts(after),
            eval_samples=eval_samples,
            seed=inputs.seed,
            thumbnails=False,
            progress=progress,
        )
    row |= {"weights_digest": before.digest(), "unlearned_digest": after.digest()}
    row |= {"forget_digest": loaded.forget.digest(), "k": len(loaded.forget), "seed": inputs.seed}
    if out is not None:
        write_text(out, json.dumps(row, indent=1) + "\n")
    print(json.dumps(row, indent=1))


def _without_parts(after: Classifier) -> dict[str, Classifier]:
    """The plain network, by the name of its path, where what is deployed is more than that."""
    plain = after.copy()
    plain.projector = plain.lookup = None
    if after.lookup is not None:
        return {"bare": plain}
    return {} if after.projector is None else {"direct": plain}


def _check_delivered(path: Path) -> None:
    """Compare what a run delivered with its manifest; of an older version's, say that it has none.

    Raises:
        InputError: see :func:`stakes.manifest.check_manifest`.
    """
    folder = path if path.is_dir() else path.parent
    if path.suffix != ".safetensors" and not path.is_dir():
        return
    if not check_manifest(folder, absent=NOT_DELIVERED) and (folder / "row.json").exists():
        print(f"note: {folder} has no manifest: changes in it are not noticed", file=sys.stderr)


def _reload(unlearned: Path, before: Classifier) -> Classifier:
    """The unlearned network; code of the user's own only if it made the original as well."""
    file = unlearned / "model.safetensors" if unlearned.is_dir() else unlearned
    device = str(before.device)
    if made_by(before.spec, file) is not None:
        return Classifier.load(before.spec, weights=file, device=device)
    return Classifier.load(unlearned, device=device)


def describe(
    *,
    classes: Place,
    model: str,
    out: Place,
    prompt: PromptKind = "objects",
    attributes: Whole = 7,
    base_url: str | None = None,
    overwrite: Switch = False,
) -> None:
    """Let a language model write the visual attributes of your classes, to make anchors of.

    The names of the classes are sent to the model. OUT is written after every class: run the same
    command again to resume. Needs pip install "stakes[llm]".

    Args:
        classes: a text file with one class name a line
        model: openai:NAME, anthropic:NAME or ollama:NAME; the key is read from OPENAI_API_KEY or
            ANTHROPIC_API_KEY
        out: JSON file to write, for `stakes anchors --descriptions`
        prompt: objects, or faces for famous people
        attributes: how many for each class
        base_url: address of another server that speaks the provider's protocol; the key, if one
            is set, is sent to it
        overwrite: start over, whatever OUT holds
    """
    names = read_classes(classes)
    with Terminal() as progress:
        found = describe_classes(
            names,
            model,
            out,
            prompt=prompt,
            count=attributes,
            base_url=base_url,
            overwrite=overwrite,
            progress=progress,
        )
    print(f"{len(found)} classes described: {out}")


def anchors(
    *,
    descriptions: Place,
    encoder: str,
    encoder_path: str,
    out: Place,
    per_class: Whole = 1,
    download: Switch = False,
    overwrite: Switch = False,
) -> None:
    """Make semantic anchors from class descriptions with a text encoder.

    Args:
        descriptions: JSON file: class name to a list of visual attributes
        encoder: clip, siglip or sbert
        encoder_path: a local transformers folder, or a hub name with --download
        out: .safetensors file to write
        per_class: anchors of each class; its attributes are distributed among them
        download: fetch the encoder if it is not there
        overwrite: replace OUT
    """
    made = build(
        descriptions,
        encoder,
        encoder_path,
        out,
        per_class=per_class,
        download=download,
        overwrite=overwrite,
    )
    count, width = made.vectors.shape
    print(f"{count} anchors, {width} wide, digest {made.digest()[:12]}: {out}")


def report(
    *runs: Place,
    out: Place,
    title: str | None = None,
    reference: Place | None = None,
    overwrite: Switch = False,
) -> None:
    """Make one page from one or several run folders.

    Args:
        runs: folders that `stakes unlearn` wrote
        out: HTML file to write
        title: heading of the page
        reference: folder of a run to put beside the others, such as one of retrain or oracle
        overwrite: replace that file
    """
    if not runs:
        raise InputError("report: name at least one run folder")
    check_file(out, overwrite)
    for folder in [*runs, *([] if reference is None else [reference])]:
        if not (folder / MANIFEST).exists():
            print(f"note: {folder} has no manifest: changes in it are not noticed", file=sys.stderr)
    from stakes.report.page import write_report  # only here: what it plots with is slow to import

    print(write_report(list(runs), out, title=title, reference=reference))
    renew(out)


def demo(*, out: Place = Path("demo"), overwrite: Switch = False, seed: Whole = 0) -> None:
    """Train a small network on digits, make it forget 16 of them by three methods, and report.

    Args:
        out: folder to write
        overwrite: replace OUT if it holds an earlier demo
        seed: of every random choice
    """
    check_seed(seed)
    from stakes.demo import run_demo  # only here: it imports the report

    with Terminal() as progress:
        page = run_demo(out, overwrite=overwrite, seed=seed, progress=progress)
    print(f"report  {page}")


def bench(
    recipe: Annotated[str, Parameter(help=f"a .toml file, or {', '.join(shipped_recipes())}")],
    *,
    out: Place,
    settings: Annotated[tuple[str, ...], Parameter(name="--set")] = (),
    jobs: Whole | None = None,
    dry_run: Switch = False,
) -> int:
    """Run every network, method, k and seed of a recipe, each as one `stakes unlearn`; tabulate.

    Run the same command again to resume: finished cells are verified and not run again.

    Args:
        recipe: a .toml file, or the name of one that comes with stakes
        out: folder of the benchmark
        settings: key=value for a {key} in the recipe, such as data=/path/to/images; repeatable
        jobs: cells at once; by default one a GPU, or one for every four cores from eight on
        dry_run: only print every cell, whether it is finished, and its command
    """
    from stakes.runs.benchmark import bench as run_bench  # only here: it imports the report

    pairs = [text.partition("=") for text in settings]
    if not all(key and sign for key, sign, _ in pairs):
        raise InputError("--set takes key=value, such as --set data=/path/to/images")
    found = read_recipe(recipe, {key: value for key, _, value in pairs})
    return run_bench(found, out, jobs=jobs, dry_run=dry_run)


def _summary(row: dict[str, Any]) -> str:
    """The main numbers, a line each."""
    steps = row["steps"]

    def change(key: str) -> str:
        before, after = row[f"{key}_before"], row[key]
        return "not measured" if after is None else f"{before:6.2f} % -> {after:6.2f} %"

    return "\n".join(
        [
            f"{row['method_title']}, {steps} step{'s' * (steps != 1)}: {row['stop_reason']}",
            f"forget images recognised    {change('acc_forget')}",
            f"test accuracy               {change('acc_test')}",
            f"retained accuracy           {change('acc_retain')}",
            f"altered copies recognised   {change('forget_views')}",
        ]
    )
