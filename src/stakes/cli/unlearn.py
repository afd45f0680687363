"""``stakes unlearn``: the command that makes a network forget."""

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

from stakes.cli.delivered import check_delivered, reference_network
from stakes.cli.summary import announce, print_json, summary
from stakes.data.forget_words import draws
from stakes.data.surrogates import Surrogates
from stakes.errors import InputError, quoted
from stakes.evaluation.own import Given, Measure
from stakes.evaluation.selection import check_samples
from stakes.methods import Method, method_class
from stakes.models.agreement import compared
from stakes.models.specs import RANDOM
from stakes.progress import Terminal, silent
from stakes.rows import INCOMPLETE
from stakes.runs.folder import check_apart, check_free, check_out, resumable
from stakes.runs.forecast import as_text, forecast
from stakes.runs.inputs import Inputs, RunOptions
from stakes.runs.load import Loaded, load, most_bytes
from stakes.runs.measures import own_measures, tried
from stakes.runs.record import Request, record
from stakes.runs.sound import check_recognised, incomplete
from stakes.runs.threads import fit_threads
from stakes.runs.words import MACHINE, OUTPUT, TO_FORGET, Place, Switch
from stakes.sidecar import Sidecar
from stakes.training.distributed import count, is_writer
from stakes.training.micro import passing_at_most
from stakes.training.sharding import sharded

NONE_GIVEN = RunOptions()
MOST_IMAGES = 10**9  # that pass at once


def unlearn(
    *,
    inputs: Inputs,
    out: Annotated[Place, OUTPUT],
    method: Annotated[str, TO_FORGET] = "structguard",
    preset: Annotated[str | None, TO_FORGET] = None,
    options: RunOptions = NONE_GIVEN,
    overwrite: Annotated[Switch, OUTPUT] = False,
    dry_run: Annotated[Switch, OUTPUT] = False,
    quiet: Annotated[Switch, OUTPUT] = False,
    json: Annotated[Switch, OUTPUT] = False,
    config: Annotated[Place | None, MACHINE] = None,
    command_line: str = "",
    **fields: Any,
) -> int:
    """Make a network forget images.

    OUT gets model.safetensors, row.json (the numbers), history.jsonl (each step) and report.html
    (the evidence). If not everything was forgotten, the exit code is 3. If interrupted, run the
    same command again to resume. Every hyper-parameter of a method is an option too; `stakes
    unlearn --help-method NAME` lists them.

    Args:
        inputs: the network, the images, and the data to score on.
        out: folder to write; it appears once the run is complete
        method: how to forget
        preset: named settings of the method; other options override them
        options: how the run is made and scored.
        overwrite: replace OUT if it holds an earlier run
        dry_run: take a few steps on a copy, print the time, memory and disk space that the run
            would need, and write nothing
        quiet: print no progress, and nothing on standard output except for --json
        json: print the row as JSON instead of the summary
        config: a TOML file with any of these options; the command line overrides it
        command_line: the command as it was given, for the row.
        fields: hyper-parameters of the method.
    """
    quiet = quiet or not is_writer()
    with redirect_stdout(sys.stderr):  # what code of the user's own prints
        chosen = method_class(method, preset)(**fields)
        if dry_run and count() > 1:
            raise InputError("--dry-run measures a single process: start it without torchrun")
        if is_writer():
            (check_free if dry_run else check_out)(out, overwrite)
        check_apart(out, inputs.forget, inputs.data, options.surrogates)
        check_options(chosen, method, inputs, options)
        metrics = own_measures(options.metric)
        loaded = load(inputs)
        chosen.check_processes(loaded.classifier)
        fit_threads(loaded.classifier)
        if not quiet:
            announce(loaded, inputs.data)
        words = {"method": method, "preset": preset, "command": command_line}
        request = _request(chosen, inputs, loaded, options, metrics, words)
        with passing_at_most(options.micro_batch), sharded(options.shard):
            found = _forecast(request, out, overwrite) if dry_run else None
            row = _record(request, out, overwrite, quiet) if found is None else {}
    if found is not None:
        if json:
            print_json(found)
        elif not quiet:
            print(as_text(found))
        return 0
    if json and is_writer():
        print_json(row)
    elif not quiet:
        print(summary(row))
        print(f"model   {out / 'model.safetensors'}\nreport  {out / 'report.html'}")
    # Of several processes one says so: torchrun ends the others as soon as it hears of it.
    return INCOMPLETE if incomplete(row) and is_writer() else 0


def check_options(chosen: Method, name: str, inputs: Inputs, options: RunOptions) -> None:
    """Refuse options that cannot be or do not go together, before anything is loaded.

    Raises:
        InputError: a number out of bounds, two options that exclude each other, or one without
            what it needs.
    """
    rows = options.micro_batch
    if rows is not None and not 1 <= rows <= MOST_IMAGES:
        raise InputError(f"--micro-batch {quoted(rows)}: give 1 to {MOST_IMAGES} images")
    check_samples(options.eval_samples, "--eval-samples")
    most_bytes(inputs.max_memory)
    if options.shard:
        chosen.check_shard()
        if rows is not None:
            raise InputError("--shard and --micro-batch: give one of them")
    if options.surrogates is not None or options.sidecar is not None:
        chosen.check_surrogates()
    check_delivered(Path(inputs.model))
    if chosen.needs_retain and inputs.data is None:
        raise InputError(f"--method {name} needs retained training data: add --data")
    if draws(inputs.forget) and inputs.data is None:
        raise InputError(f"--forget {inputs.forget}: this draws from the training set; add --data")


def _request(
    method: Method,
    inputs: Inputs,
    loaded: Loaded,
    options: RunOptions,
    metrics: Mapping[str, Measure],
    words: Mapping[str, str | None],
) -> Request:
    """What the run is asked for; ``words`` of the command line go into its row as given."""
    splits = loaded.splits
    test, retain = (None, None) if splits is None else (splits.test, splits.train)
    reference = reference_network(options.reference, loaded.classifier)
    surrogates = _surrogates(options, inputs, loaded)
    tried(metrics, loaded.classifier, Given(loaded.forget, test, retain))
    asked = {
        "dataset": inputs.data,
        "forget": inputs.forget,
        "weights": loaded.classifier.weights,
        **compared(loaded.agreement),
    }
    return Request(
        method,
        loaded.classifier,
        loaded.forget,
        loaded.anchors,
        retain=retain,
        test=test,
        surrogates=surrogates,
        earlier=loaded.earlier,
        reference=reference,
        seed=inputs.seed,
        eval_samples=options.eval_samples,
        thumbnails=options.images,
        force=options.force or str(inputs.weights) == RANDOM,
        metrics=metrics,
        asked={**asked, **words},
    )


def _surrogates(options: RunOptions, inputs: Inputs, loaded: Loaded) -> Surrogates | None:
    """Surrogate data at the size of the images to forget, from images, a sidecar or both."""
    size = (loaded.forget.images.shape[2], loaded.forget.images.shape[3])
    found = []
    if options.sidecar is not None:
        sidecar = Sidecar.load(options.sidecar)
        known = (loaded.classifier.digest(), *loaded.earlier.networks)
        if sidecar.card.get("weights_digest") not in known:
            raise InputError(
                f"--sidecar {options.sidecar} was made for other weights, and these were not "
                "derived from them: make one for these weights"
            )
        found.append(sidecar.surrogates(str(options.sidecar), size))
    if options.surrogates is not None:
        found.append(
            Surrogates.of(
                options.surrogates,
                size,
                read=loaded.classifier.preprocessing,
                seed=inputs.seed,
                root=inputs.data_root,
                download=inputs.download,
            )
        )
    return Surrogates.joined(found) if found else None


def _forecast(request: Request, out: Path, overwrite: bool) -> dict[str, Any]:
    """What the run would take; refuses, with an InputError, what would stop before its steps."""
    if not request.force:
        check_recognised(request.classifier, request.forget, request.earlier)
    return forecast(request, out, overwrite)


def _record(request: Request, out: Path, overwrite: bool, quiet: bool) -> dict[str, Any]:
    """Run and write OUT; gives the row."""
    try:
        with Terminal() as shown:
            return record(request, out, silent if quiet else shown, overwrite=overwrite)
    except (KeyboardInterrupt, OSError) as stopped:
        if resumable(out):
            stopped.add_note("run the same command again to resume")
        raise
