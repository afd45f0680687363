"""Whether a run makes sense: before its steps, and before its result is written."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch

from stakes.data.forget import ForgetSet
from stakes.errors import InputError
from stakes.evaluation.scores import correct, score
from stakes.methods import Unlearned
from stakes.models.classifier import Classifier
from stakes.rows import Outcome
from stakes.runs.forgotten import NOTHING, Forgotten


def check_recognised(
    classifier: Classifier, forget: ForgetSet, earlier: Forgotten = NOTHING
) -> None:
    """Refuse images to forget that the network mostly does not recognise.

    Those that an earlier run made it forget, and that it still does not recognise, do not count.

    Raises:
        InputError: more than half of them do not get their class: then most likely the labels or
            the input are not what the network was trained with, and forgetting would say nothing.
    """
    forget = forget.to(classifier.device)
    scored = score(classifier.copy().eval(), forget.images, forget.labels)
    wrong = ~correct(scored.logits, scored.labels)
    again = torch.tensor(earlier.among(forget)) & wrong
    wrong &= ~again
    k, missed = len(forget) - int(again.sum()), int(wrong.sum())
    if k == 0:
        raise InputError(
            f"earlier runs made the network forget all of these {len(forget)} images, and it "
            "recognises none: there is nothing to do; add --force to run anyway"
        )
    if 2 * missed <= k:
        return
    answers = zip(
        scored.labels[wrong].tolist(), scored.logits[wrong].argmax(1).tolist(), strict=True
    )
    ((label, answer), count), *_ = Counter(answers).most_common()
    names, of = classifier.class_names, int((scored.labels == label).sum())
    raise InputError(
        f"the network recognises only {k - missed} of the {k} images to forget, and an image "
        f"that it does not recognise cannot be forgotten ({count} of {of} of class "
        f"{names[label]} are classified as {names[answer]}). Likely causes: a different order "
        "of the classes (--classes), different normalisation (--mean, --std), different "
        "preprocessing, or weights that are not the trained ones. Correct it, or add --force "
        "to run anyway"
    )


def check_finite(result: Unlearned, forget: ForgetSet) -> None:
    """Refuse a network that broke down, so that it is never delivered.

    Raises:
        InputError: weights, or answers on the images to forget, that are not finite.
    """
    network = result.classifier
    forget = forget.to(network.device)
    broken = [n for n, t in network.state_dict().items() if not bool(t.isfinite().all())]
    where = f"weights such as {broken[0]}" if broken else "its answers"
    if broken or not score(network, forget.images, forget.labels).usable:
        raise InputError(
            f"the run failed ({result.stop_reason}): {where} are not finite, so nothing is "
            "written; take smaller steps, for example with a lower --lr"
        )


def incomplete(row: Mapping[str, Any]) -> bool:
    """Whether the run ended without what it was asked for."""
    never = row["n_never_recognised"]
    return (
        Outcome.of(row) is not Outcome.FORGOTTEN or row["n_recognised"] > 0 or 2 * never > row["k"]
    )
