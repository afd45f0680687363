"""One run put on disk: unlearn, score, and write a folder that appears whole or not at all."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save

from stakes.anchors.anchors import Anchors
from stakes.data.adapter import Data
from stakes.data.forget import ForgetSet
from stakes.data.images import Images
from stakes.data.retain import Drawn
from stakes.errors import InputError, first_line
from stakes.evaluation.again import found_in_data, found_in_words
from stakes.evaluation.audit import Evidence
from stakes.evaluation.evaluate import evaluate
from stakes.evaluation.examples import Structure
from stakes.evaluation.kept import Kept
from stakes.evaluation.own import Measure, check_measures
from stakes.evaluation.selection import select
from stakes.files import tensor_digest, write_bytes, write_text
from stakes.methods import Method, Unlearned, method_name
from stakes.models.checks import plain_numbers
from stakes.models.classifier import Classifier
from stakes.preprocessing import in_words, sides
from stakes.progress import Progress, silent
from stakes.rows import COST, DERIVED, METRICS
from stakes.runs.environment import environment, peak_memory_mb
from stakes.runs.folder import checkpoint_beside, claim
from stakes.runs.forgotten import NOTHING, Forgotten, count_again, earlier_row
from stakes.runs.placing import writing
from stakes.runs.sound import check_finite, check_recognised
from stakes.training import distributed

PHASES = ("probes", "importance", "unlearn")
#: Keys of the row that say how the run ended, and what it is of.
OUTCOME = {
    "deploy", "drift_probes", "steps", "outcome", "stop_reason", "peak_memory_mb",
    "weights_digest", "unlearned_digest", "forget_digest", "anchors_digest", "stakes_digest",
    "job_digest",
}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """Everything one run is asked for.

    Attributes:
        method: a method with its hyper-parameters.
        classifier: the trained network.
        forget: the images to forget.
        anchors: of the classifier's classes.
        retain: training images, scored and given to methods that need them; or None.
        test: test images, only scored; or None.
        surrogates: unlabelled images for a method that holds such; or None.
        earlier: what earlier runs made the network forget.
        reference: a network to compare the result with; or None.
        seed: of every random choice.
        eval_samples: score at most this many test and retained images.
        thumbnails: whether the evidence and the report show the forget images.
        force: go on even where the network recognises less than half of the images.
        metrics: measures of one's own, as :func:`stakes.evaluate` takes them.
        asked: words for the row: ``dataset``, ``forget``, ``weights``, ``command``.
    """

    method: Method
    classifier: Classifier
    forget: ForgetSet
    anchors: Anchors
    retain: Images | None = None
    test: Images | None = None
    surrogates: Data | None = None
    earlier: Forgotten = NOTHING
    reference: Classifier | None = None
    seed: int = 0
    eval_samples: int | None = None
    thumbnails: bool = True
    force: bool = False
    metrics: Mapping[str, Measure] = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)


def record(
    request: Request, out: str | Path, progress: Progress = silent, *, overwrite: bool = True
) -> dict[str, Any]:
    """Unlearn, score, and write ``out``: model, card, row, history, evidence, stakes and report.

    Where the same run was interrupted before, it resumes (see :mod:`stakes.training.checkpoint`
    for its steps and :mod:`stakes.evaluation.kept` for its scores). Of several processes (see
    :mod:`stakes.training.distributed`), which all call it, one writes. The files are for their
    owner alone, since they show the images, and on the disk before the checkpoint goes.

    Args:
        request: what to do.
        out: the folder to write.
        progress: called with phase, steps done, steps in all and a note.
        overwrite: whether an earlier result may be replaced; anything else never is.

    Returns:
        The row.

    Raises:
        InputError: a damaged image among those to score, images most of which the network does
            not recognise, what the method refuses, or an ``out`` that cannot be written; before
            any long work, and with nothing written. Or a network that broke down, or files that
            somebody put into ``out`` meanwhile: then the checkpoint stays.
    """
    _check_metrics(request)
    if not distributed.is_writer():
        distributed.wait_for_all()
        row, *_ = _work(request, checkpoint_beside(out), silent)
        distributed.wait_for_all()
        return row
    with claim(out, overwrite) as place:
        distributed.wait_for_all()  # until the folder is ours
        row, result, evidence = _work(request, place.work, progress)
        with writing(place, overwrite) as folder:
            _write(folder, request, result, row, evidence, progress)
        Kept(place.work, result.job).clear()
        if result.checkpoint is not None:
            result.checkpoint.unlink(missing_ok=True)
    distributed.wait_for_all()  # until all is written
    return row


def _work(
    request: Request, checkpoint: Path, progress: Progress
) -> tuple[dict[str, Any], Unlearned, Evidence]:
    """Unlearn and score; gives the row, the result and the evidence."""
    start = time.perf_counter()
    gone, request = _without_earlier(request, progress)
    selected = select(
        request.forget,
        test=request.test,
        retain=request.retain,
        eval_samples=request.eval_samples,
        seed=request.seed,
        progress=progress,
    )
    found = {"k": len(request.forget), **found_in_data(request.forget, selected.get("retain"))}
    if said := found_in_words(found):
        progress("forget images in --data", 1, 1, said)
    if not request.force:
        check_recognised(request.classifier, request.forget, request.earlier)
    selecting = time.perf_counter() - start
    result = request.method(
        request.classifier,
        request.forget,
        anchors=request.anchors,
        retain=request.retain if request.method.needs_retain else None,
        surrogates=request.surrogates,
        seed=request.seed,
        checkpoint=checkpoint,
        progress=progress,
    )
    check_finite(result, request.forget)
    scoring = time.perf_counter()
    scores, evidence = evaluate(
        request.classifier,
        result.classifier,
        request.forget,
        test=request.test,
        retain=request.retain,
        selected=selected,
        other=result.other,
        reference=request.reference,
        structure=Structure(result.stakes, request.anchors.card.get("texts", {})),
        thumbnails=request.thumbnails,
        metrics=request.metrics,
        kept=Kept(checkpoint, result.job),
        progress=progress,
    )
    row = _asked(request) | scores | _outcome(result)
    row |= earlier_row(len(request.earlier), gone, request.classifier, result.classifier)
    row |= count_again(request.earlier.among(request.forget), row, evidence["forget"])
    now = time.perf_counter()
    row |= _scored_surrogates(request, result, selected)
    row |= {"seconds_evaluate": selecting + now - scoring}
    row["seconds_total"] = now - start + result.earlier
    row |= {"peak_memory_mb": peak_memory_mb(request.classifier.device)}
    row |= _digests(request, result) | environment(request.classifier.device)
    return finite(row), result, evidence


def _without_earlier(request: Request, progress: Progress) -> tuple[Images | None, Request]:
    """The training images that earlier runs made the network forget, and the request without them.

    They are neither scored as retained nor given to a method.
    """
    gone, retain, forget = request.earlier.divided(request.retain, request.forget, progress)
    return gone, replace(request, retain=retain, forget=forget)


def _write(
    folder: Path,
    request: Request,
    result: Unlearned,
    row: Mapping[str, Any],
    evidence: Evidence,
    progress: Progress,
) -> None:
    from stakes.report.page import write_report  # only here: what it plots with is slow to import

    result.classifier.save(folder)
    digests = row["weights_digest"], row["unlearned_digest"]
    request.earlier.after(request.forget, *digests).write(folder)
    held = {"anchors": request.anchors.vectors.cpu(), "stakes": result.stakes.cpu()}
    write_bytes(folder / "stakes.safetensors", save(held))
    write_text(folder / "row.json", json.dumps(row, indent=1, allow_nan=False) + "\n")
    lines = (json.dumps(finite(step), allow_nan=False) for step in result.history)
    write_text(folder / "history.jsonl", "\n".join(lines) + "\n")
    whole = {key: [finite(record) for record in records] for key, records in evidence.items()}
    write_text(folder / "evidence.json", json.dumps(whole, allow_nan=False) + "\n")
    try:
        write_report([folder], folder / "report.html")
    except (OSError, MemoryError):
        raise
    except Exception as error:  # the result is there, and `stakes report` can make the page later
        progress("report", 0, 1, f"not written: {first_line(error)}")


def _check_metrics(request: Request) -> None:
    """Refuse, before the work, measures that cannot be called, or under names of the row."""
    check_measures(request.metrics)
    taken = {*METRICS, *DERIVED, *COST, *_asked(request), *environment(request.classifier.device)}
    for name in request.metrics:
        if name in taken | OUTCOME or name.startswith(("seconds_", "chosen_", "n_")):
            raise InputError(f"metrics: the row has {name} already; give yours another name")


def _asked(request: Request) -> dict[str, Any]:
    method, classifier = request.method, request.classifier
    name, preset = method_name(method)
    fields = asdict(method)
    return {
        "method": name,
        "preset": preset,
        "method_title": method.title,
        "needs_retain": method.needs_retain,
        **{f"method_{name}": value for name, value in fields.items()},
        **network_words(classifier),
        "k": len(request.forget),
        "seed": request.seed,
        "eval_samples": request.eval_samples,
        "anchors": request.anchors.card.get("name") or request.anchors.card.get("encoder"),
        **request.asked,
    }


def network_words(classifier: Classifier) -> dict[str, Any]:
    """What a row says of the network that images are forgotten from, and of what it is shown."""
    return {
        "model": classifier.spec,
        "num_classes": classifier.num_classes,
        "input_size": "x".join(map(str, sides(classifier.input_size))),
        "mean": " ".join(map(str, plain_numbers(classifier.mean))),
        "std": " ".join(map(str, plain_numbers(classifier.std))),
        "preprocessing": in_words(classifier.preprocessing),
    }


def _outcome(result: Unlearned) -> dict[str, Any]:
    last = result.history[-1]
    looks = [step["drift"] for step in result.history if "drift" in step]
    return {
        "deploy": _path(result.classifier),
        "drift_probes": looks[-1],
        "steps": int(last["step"]),
        "outcome": result.outcome.value,
        "stop_reason": result.stop_reason,
        **({} if result.surrogates is None else result.surrogates.row()),
        **{f"chosen_{name}": value for name, value in result.chosen.items()},
        **{f"seconds_{phase}": None for phase in PHASES},
        **{f"seconds_{phase}": spent for phase, spent in result.seconds.items()},
    }


def _scored_surrogates(
    request: Request, result: Unlearned, selected: Mapping[str, Drawn]
) -> dict[str, int]:
    """How many of the images that were scored had stood in for training data."""
    sets = {"test": request.test, "retain": request.retain}
    return {
        f"surrogates_in_{name}": result.surrogates.among(images, selected[name].places)
        for name, images in sets.items()
        if images is not None and result.surrogates is not None
    }


def _path(deployed: Classifier) -> str:
    """By what way the deployed classifier comes to its answers."""
    if deployed.lookup is not None:
        return "lookup"
    return "direct" if deployed.projector is None else "projected"


def _digests(request: Request, result: Unlearned) -> dict[str, str]:
    return {
        "weights_digest": request.classifier.digest(),
        "unlearned_digest": result.classifier.digest(),
        "forget_digest": request.forget.digest(),
        "anchors_digest": request.anchors.digest(),
        "stakes_digest": tensor_digest({"stakes": result.stakes}),
        "job_digest": result.job,
    }


def finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with None for NaN and infinities, which JSON does not have."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }
