"""``stakes evaluate``: score a delivered network again, on an auditor's own data."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated

from stakes.cli.delivered import (
    check_delivered,
    check_there,
    delivered_network,
    note_other_original,
    reference_network,
)
from stakes.errors import InputError
from stakes.evaluation.evaluate import evaluate as score
from stakes.evaluation.kept import Kept
from stakes.evaluation.own import Given
from stakes.evaluation.selection import check_samples
from stakes.files import check_file, hidden, write_text
from stakes.models.classifier import Classifier
from stakes.progress import Terminal, silent
from stakes.runs.environment import environment
from stakes.runs.forgotten import Forgotten, earlier_row
from stakes.runs.inputs import ScoringInputs
from stakes.runs.load import load_images
from stakes.runs.measures import own_measures, tried
from stakes.runs.record import finite, network_words
from stakes.runs.threads import fit_threads
from stakes.runs.words import EVIDENCE, NETWORK, OUTPUT, Place, Switch, Whole
from stakes.training.distributed import is_writer


def evaluate(
    *,
    inputs: ScoringInputs,
    unlearned: Annotated[Place, NETWORK],
    reference: Annotated[Place | None, EVIDENCE] = None,
    eval_samples: Annotated[Whole | None, EVIDENCE] = None,
    metric: Annotated[tuple[str, ...], EVIDENCE] = (),
    out: Annotated[Place | None, OUTPUT] = None,
    overwrite: Annotated[Switch, OUTPUT] = False,
) -> None:
    """Score an unlearned network against the original, on your own data.

    Prints the row as JSON. If interrupted, run the same command with --out again to resume.

    Args:
        inputs: the original network, the images to forget, and the data to score on.
        unlearned: the folder that `stakes unlearn` wrote, or its model.safetensors
        reference: a network to compare it with, such as one trained without the images: a folder
            that stakes wrote, or its model.safetensors
        eval_samples: score at most this many test and as many retained images; by default all
        metric: a measure of your own, path/to/file.py:function; repeatable
        out: also write the row to this .json file
        overwrite: replace that file
    """
    if out is not None:
        if out.suffix != ".json":
            raise InputError(f"--out {out}: give a name that ends in .json")
        check_file(out, overwrite, _is_row)
    check_samples(eval_samples, "--eval-samples")
    check_delivered(Path(inputs.model))
    check_there(unlearned, "--unlearned")
    check_delivered(unlearned)
    with redirect_stdout(sys.stderr):  # what code of the user's own prints
        loaded = load_images(inputs, unlearned)
        fit_threads(loaded.classifier)
        before = loaded.classifier
        after = delivered_network(unlearned, before, "--unlearned")
        if after.class_names != before.class_names:
            raise InputError(
                f"{unlearned} has other classes than --model {inputs.model}: "
                "give the one that it was made from"
            )
        if is_writer():
            note_other_original(unlearned, before, loaded.forget)
        splits = loaded.splits
        test, retain = (None, None) if splits is None else (splits.test, splits.train)
        metrics = own_measures(metric)
        tried(metrics, after, Given(loaded.forget, test, retain))
        with _kept(out, after) as kept, Terminal() as shown:
            progress = shown if is_writer() else silent
            earlier = Forgotten.beside(unlearned)
            others = earlier.images.difference(loaded.forget.pixel_digests())
            gone, retain, forget = earlier.divided(retain, loaded.forget, progress)
            row, _ = score(
                before,
                after,
                forget,
                test=test,
                retain=retain,
                metrics=metrics,
                other=_without_parts(after),
                reference=reference_network(reference, before),
                eval_samples=eval_samples,
                seed=inputs.seed,
                thumbnails=False,
                kept=kept,
                progress=progress,
            )
            row |= earlier_row(len(others), gone, before, after)
        row |= {"weights_digest": before.digest(), "unlearned_digest": after.digest()}
        row |= {
            "forget_digest": loaded.forget.digest(),
            "k": len(loaded.forget),
            "seed": inputs.seed,
            "eval_samples": eval_samples,
            "unlearned": str(unlearned),
            "weights": before.weights,
            "dataset": inputs.data,
            "forget": inputs.forget,
            **network_words(before),
            **environment(before.device),
        }
    if not is_writer():
        return
    text = json.dumps(finite(row), indent=1, allow_nan=False)
    if out is not None:
        write_text(out, text + "\n")
        kept.clear()
    print(text)


def _is_row(path: Path) -> bool:
    """Whether a file is a row of this command; that of a run, which it may audit, is another."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(row, dict) and "unlearned_digest" in row and "method" not in row


@contextmanager
def _kept(out: Path | None, after: Classifier) -> Iterator[Kept]:
    """What an interruption within the block leaves beside ``out``, in a hidden folder."""
    kept = Kept() if out is None else Kept(hidden(out, "scored"), after.digest())
    try:
        yield kept
    except (KeyboardInterrupt, OSError) as stopped:
        if kept.there():
            stopped.add_note("run the same command again to resume")
        raise


def _without_parts(after: Classifier) -> dict[str, Classifier]:
    """The plain network, by the name of its path, where what is deployed is more than that."""
    plain = after.copy()
    plain.projector = plain.lookup = None
    if after.lookup is not None:
        return {"bare": plain}
    return {} if after.projector is None else {"direct": plain}
