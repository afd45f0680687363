"""``stakes unlearn``: the command that makes a network forget."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from stakes.cli.delivered import check_delivered, reference_network
from stakes.cli.summary import announce, print_json, summary
from stakes.data.surrogates import Surrogates
from stakes.errors import InputError
from stakes.methods import Method, method_class
from stakes.models.agreement import compared
from stakes.models.specs import RANDOM
from stakes.progress import Terminal, silent
from stakes.runs.folder import check_apart, check_free, check_out, resumable
from stakes.runs.forecast import forecast, told
from stakes.runs.inputs import Inputs
from stakes.runs.load import Loaded, load
from stakes.runs.measures import Measure, own_measures, tried
from stakes.runs.record import Request, record
from stakes.runs.sound import INCOMPLETE, check_recognised, incomplete
from stakes.runs.threads import fit_threads
from stakes.runs.words import EVIDENCE, MACHINE, OUTPUT, TO_FORGET, Place, Switch, Whole
from stakes.sidecar import Sidecar
from stakes.training.distributed import count, is_writer
from stakes.training.micro import passing_at_most


def unlearn(
    *,
    inputs: Inputs,
    out: Annotated[Place, OUTPUT],
    method: Annotated[str, TO_FORGET] = "structguard",
    preset: Annotated[str | None, TO_FORGET] = None,
    surrogates: Annotated[Place | None, TO_FORGET] = None,
    sidecar: Annotated[Place | None, TO_FORGET] = None,
    reference: Annotated[Place | None, EVIDENCE] = None,
    eval_samples: Annotated[Whole | None, EVIDENCE] = None,
    metric: Annotated[tuple[str, ...], EVIDENCE] = (),
    images: Annotated[bool, EVIDENCE] = True,
    overwrite: Annotated[Switch, OUTPUT] = False,
    force: Annotated[Switch, TO_FORGET] = False,
    dry_run: Annotated[Switch, OUTPUT] = False,
    quiet: Annotated[Switch, OUTPUT] = False,
    json: Annotated[Switch, OUTPUT] = False,
    micro_batch: Annotated[Whole | None, MACHINE] = None,
    config: Annotated[Place | None, MACHINE] = None,
    command_line: str = "",
    **fields: Any,
) -> int:
    """Make a network forget images.

    OUT gets model.safetensors, row.json (the numbers), history.jsonl (each step) and report.html
    (the evidence). If not everything was forgotten, the exit code is 3. If interrupted, run the
    same command again to resume. Every hyper-parameter of a method is an option too: see them by
    `stakes unlearn --help-method NAME`.

    Args:
        inputs: the network, the images, and what there is to score on.
        out: folder to write; it appears when everything is done
        method: how to forget
        preset: named settings of the method; single options still override them
        surrogates: a folder of unlabelled images, in any folders below, that stand in for the
            training data; any lawful ones, the nearer to the data the better; never scored, and
            copies of images to forget are left out
        sidecar: a file of `stakes sidecar`, made while the training data was there; its synthetic
            images serve as surrogates
        reference: a network to compare the result with, such as one trained without the images: a
            folder that stakes wrote, or its model.safetensors; only scored
        eval_samples: score at most this many test and as many retained images; by default all
        metric: a measure of your own, path/to/file.py:function; repeatable
        images: show the forget images in the report, or leave them out
        overwrite: replace OUT if it holds an earlier run
        force: go on even where the network recognises less than half of the images
        dry_run: take a few steps on a copy that is thrown away, say what the run would take and
            write, and write nothing
        quiet: no progress, and nothing on standard output but what --json asks for
        json: print the row as JSON in place of the summary
        micro_batch: images that pass through the network at once, where memory is short; the result
            is the same up to rounding, a step takes about a third longer
        config: a TOML file with any of these options; the command line overrides it
        command_line: the command as it was given, for the row.
        fields: hyper-parameters of the method.
    """
    chosen = method_class(method, preset)(**fields)
    if micro_batch is not None and micro_batch < 1:
        raise InputError(f"--micro-batch {micro_batch}: give at least 1")
    if dry_run and count() > 1:
        raise InputError("--dry-run takes the time of one process: start it without torchrun")
    if is_writer():
        (check_free if dry_run else check_out)(out, overwrite)
    check_apart(out, inputs.forget, inputs.data, surrogates)
    if surrogates is not None or sidecar is not None:
        chosen.check_surrogates()
    if surrogates is not None and sidecar is not None:
        raise InputError("--surrogates and --sidecar: give one of them")
    check_delivered(Path(inputs.model))
    if chosen.needs_retain and inputs.data is None:
        raise InputError(f"--method {method} needs retained training data: add --data")
    loaded = load(inputs)
    chosen.check_processes(loaded.classifier)
    fit_threads(loaded.classifier)
    quiet = quiet or not is_writer()
    if not quiet:
        announce(loaded, inputs.data)
    request = _request(
        chosen,
        inputs,
        loaded,
        eval_samples=eval_samples,
        thumbnails=images,
        reference=reference_network(reference, loaded.classifier),
        surrogates=_read(surrogates, sidecar, loaded, inputs.seed),
        force=force or str(inputs.weights) == RANDOM,
        asked={"preset": preset, "command": command_line},
        metrics=_own(metric, loaded),
    )
    if dry_run:
        with passing_at_most(micro_batch):
            _forecast(request, out, overwrite, json)
        return 0
    try:
        with Terminal() as shown, passing_at_most(micro_batch):
            progress = silent if quiet else shown
            row = record(request, out, progress, overwrite=overwrite)
    except KeyboardInterrupt as stopped:
        if resumable(out):
            stopped.add_note("run the same command again to resume")
        raise
    if json and is_writer():
        print_json(row)
    elif not quiet:
        print(summary(row))
        print(f"model   {out / 'model.safetensors'}\nreport  {out / 'report.html'}")
    # Of several processes one says so: torchrun ends the others as soon as it hears of it.
    return INCOMPLETE if incomplete(row) and is_writer() else 0


def _forecast(request: Request, out: Path, overwrite: bool, json: bool) -> None:
    """Print what the run would take, or why it would stop before its steps."""
    if not request.force:
        check_recognised(request.classifier, request.forget)
    found = forecast(request, out, overwrite)
    if json:
        print_json(found)
    else:
        print(told(found))


def _own(words: Sequence[str], loaded: Loaded) -> dict[str, Measure]:
    """The user's own measures, each tried once before anything long begins."""
    splits = loaded.splits
    test, retain = (None, None) if splits is None else (splits.test, splits.train)
    return tried(own_measures(words, loaded.forget, test, retain), loaded.classifier)


def _read(
    folder: Path | None, sidecar: Path | None, loaded: Loaded, seed: int
) -> Surrogates | None:
    """Surrogate data at the size of the images to forget, from a folder or a sidecar."""
    height, width = loaded.forget.images.shape[2:]
    if sidecar is not None:
        kept = Sidecar.load(sidecar)
        if kept.card.get("weights_digest") != loaded.classifier.digest():
            raise InputError(f"--sidecar {sidecar} was made for other weights: make it for these")
        return kept.surrogates(str(sidecar), (height, width))
    if folder is None:
        return None
    return Surrogates.of(folder, (height, width), read=loaded.classifier.preprocessing, seed=seed)


def _request(method: Method, inputs: Inputs, loaded: Loaded, **options: Any) -> Request:
    """What the run is asked for, the words of the command line among it."""
    splits = loaded.splits
    words = {
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
        retain=None if splits is None else splits.train,
        test=None if splits is None else splits.test,
        seed=inputs.seed,
        **options | {"asked": words | options["asked"]},
    )
