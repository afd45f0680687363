"""An unlearned network compared with a reference, such as one trained without the forget images."""

import statistics
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stakes.data.forget import ForgetSet
from stakes.errors import InputError
from stakes.evaluation.scores import REFERENCE, WHEN, BeforeAfter, Sample, correct, percent, score
from stakes.models.classifier import Classifier
from stakes.rows import METRICS

Row = dict[str, Any]
BEGINNING = "reference_"


def check_reference(reference: Classifier, classifier: Classifier) -> None:
    """Refuse a reference whose outputs mean something else.

    Raises:
        InputError: its classes, or their order, are not those of the classifier.
    """
    if reference.class_names != classifier.class_names:
        raise InputError(
            "the reference has other classes than the network, or has them in another order: give "
            "one that was trained on the same data"
        )


@torch.no_grad()
def against(
    reference: Classifier | None,
    forget: ForgetSet,
    scored: BeforeAfter,
    samples: Mapping[str, Sample | None],
) -> Row:
    """Compare the network with a reference, before and after unlearning.

    ``reference_gap`` is the absolute difference of their accuracies, averaged over the forget set
    and the samples, in percentage points (the average gap of Fan et al., SalUn, ICLR 2024, without
    its fourth part, the gap of a membership attack).
    ``reference_agreement`` is the percentage of images that both give the same class.
    ``reference_kl`` is KL(reference || network) over all classes, in bits.

    Args:
        reference: the other network, in eval mode; None: nothing is measured.
        forget: the images to forget, on the reference's device.
        scored: features and logits of the forget images, before and after.
        samples: those of ``test`` and ``retain`` images, of the reference too.

    Returns:
        The measures under the keys of :data:`stakes.rows.METRICS`, with ``_before`` for the
        original; ``acc_forget_reference`` and so on, the reference's own accuracies on the same
        images; and ``reference_digest``. None for what was not measured.
    """
    keys = [key for key in METRICS if key.startswith(BEGINNING)]
    row: Row = dict.fromkeys(key + suffix for key in keys for suffix in WHEN)
    row |= dict.fromkeys(f"acc_{name}_reference" for name in ("forget", *samples))
    row["reference_digest"] = None if reference is None else reference.digest()
    if reference is None:
        return row
    answers = {"forget": {**scored, REFERENCE: score(reference, forget.images, forget.labels)}}
    answers |= {name: dict(sample.scored) for name, sample in samples.items() if sample is not None}
    gaps: dict[str, list[float]] = {suffix: [] for suffix in WHEN}
    for name, own in answers.items():
        theirs = own[REFERENCE]
        accuracy = percent(correct(theirs.logits, theirs.labels))
        row[f"acc_{name}_reference"] = accuracy
        for suffix in WHEN:
            ours = own[suffix]
            gaps[suffix].append(abs(percent(correct(ours.logits, ours.labels)) - accuracy))
            agreement = percent(ours.logits.argmax(1) == theirs.logits.argmax(1))
            row[f"reference_agreement_{name}{suffix}"] = agreement
            row[f"reference_kl_{name}{suffix}"] = divergence(theirs.logits, ours.logits)
    return row | {f"reference_gap{suffix}": statistics.fmean(gaps[suffix]) for suffix in WHEN}


def divergence(reference: Tensor, logits: Tensor) -> float:
    """Mean KL(reference || network) in bits, from logits (n, c) of both.

    >>> divergence(torch.zeros(1, 2), torch.tensor([[0.0, 2.0]]))
    0.6258134...
    """
    p, q = (part.double().log_softmax(1) for part in (reference, logits))
    return float((p.exp() * (p - q)).sum(1).mean() / torch.tensor(2.0).double().log())
