"""Evidence beyond accuracy, from features and logits: attacks, features, answers, relearning."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from stakes.data.forget import ForgetSet
from stakes.errors import first_line
from stakes.evaluation.contrast import audit_contrast
from stakes.evaluation.kept import Kept
from stakes.evaluation.knowledge import (
    LINEAR_PROBES,
    STEPS,
    answer_entropy,
    density,
    read_features,
    relearn_steps,
    rf_jsd,
)
from stakes.evaluation.membership import FOLDS, SCORES, answer_scores, learned_scores, separation
from stakes.evaluation.retrieval import Retrieval, retrieve, retrieve_among
from stakes.evaluation.scores import WHEN, BeforeAfter, Depth, Sample, correct, percent
from stakes.files import tensor_digest
from stakes.models.classifier import Classifier
from stakes.progress import Progress, silent
from stakes.rows import METRICS
from stakes.training.targets import second_choices

AUDITED = 2048  # images of each set whose features and logits are audited; whole batches
RELEARN = 16  # images trained on at once
MEMBERSHIP = (
    "mia_retain",
    "mia_retain_found",
    "mia_forget",
    "mia_forget_found",
    "mia_forget_loss",
    "mia_forget_unlikely",
)
#: How the measures of each audit begin in :data:`stakes.rows.METRICS`.
BEGINNINGS = {
    "membership": ("mia_",),
    "features": ("probe_", "centroid_"),
    "retrieval": ("retrieval_",),
    "answers": ("foretold", "answer_entropy"),
    "likeness": ("rf_jsd",),
    "relearning": ("relearn_",),
    "consistency": ("consistency",),
    "contrast": ("contrast_",),
}
RETRIEVAL = ("r1", "r5", "r10", "map")
Row = dict[str, Any]
Evidence = dict[str, list[Row]]


def audit(
    after: Classifier,
    forget: ForgetSet,
    scored: BeforeAfter,
    *,
    copies: Sequence[Depth] = (),
    test: Sample | None = None,
    retain: Sample | None = None,
    kept: Kept | None = None,
    progress: Progress = silent,
) -> tuple[Row, Evidence]:
    """Run every audit. An audit that fails counts as not measured and does not end the run.

    Args:
        after: the classifier to deploy, in eval mode.
        forget: the images that were to be forgotten, on the classifier's device.
        scored: features and logits of the forget images, before and after.
        copies: depth of each of their altered copies, after.
        test: images of no training set.
        retain: retained training images.
        kept: where the results of an interrupted run are.
        progress: called with phase, steps done, steps in all and a note.

    Returns:
        The row, with None for what was not measured, and the evidence: parts of what
        :func:`stakes.evaluation.evaluate.evaluate` returns.
    """
    unseen, retained = (None if sample is None else sample.scored for sample in (test, retain))
    row: Row = {
        "n_audit_test": len(unseen[""].labels) if unseen else 0,
        "n_audit_retain": len(retained[""].labels) if retained else 0,
    }
    audits: dict[str, Callable[[], tuple[Row, list[Row]]]] = {
        "membership": lambda: audit_membership(scored, unseen, retained),
        "features": lambda: (audit_features(scored, unseen), []),
        "retrieval": lambda: (audit_retrieval(scored, retained), []),
        "answers": lambda: (audit_answers(scored), []),
        "likeness": lambda: (audit_likeness(scored, unseen), []),
        "relearning": lambda: (audit_relearning(after, forget, scored, test), []),
        "consistency": lambda: audit_consistency(retained),
        "contrast": lambda: audit_contrast(after, scored[""], copies, test),
    }
    evidence: Evidence = {}
    failed = []
    kept, given = kept or Kept(), _digest(forget, scored, unseen, retained)
    for done, (name, measure) in enumerate(audits.items()):
        progress("looking for traces", done, len(audits))
        try:
            numbers, evidence[name] = kept.values(f"{name} {given}", measure)
        except Exception as error:  # no reason to lose the run: it counts as not measured
            failed.append(f"{name} ({first_line(error)})")
            keys = [key for key in METRICS if key.startswith(BEGINNINGS[name])]
            numbers, evidence[name] = dict.fromkeys(key + s for key in keys for s in WHEN), []
        row |= numbers
    row["audits_failed"] = "; ".join(failed) or None
    note = f"not measured: {'; '.join(failed)}" if failed else ""
    progress("looking for traces", len(audits), len(audits), note)
    attacks = evidence["membership"] + evidence["contrast"]
    return row, {"membership": attacks, "consistency": evidence["consistency"]}


def _digest(forget: ForgetSet, *sets: BeforeAfter | None) -> str:
    """Of all that the audits read, besides the networks."""
    found = {"images": forget.images}
    for number, scored in enumerate(sets):
        for suffix, answers in (scored or {}).items():
            columns = answers._asdict().items()
            found |= {f"{number}{suffix} {name}": values for name, values in columns}
    return tensor_digest(found)


def audit_membership(
    forget: BeforeAfter, test: BeforeAfter | None, retain: BeforeAfter | None
) -> tuple[Row, list[Row]]:
    """Membership inference on retained and on forget images, before and after.

    Returns:
        AUCs and percentages for the row, and a record of every attack on every set.
    """
    row: Row = dict.fromkeys(f"{key}{suffix}" for key in MEMBERSHIP for suffix in WHEN)
    evidence: list[Row] = []
    for suffix, when in WHEN.items():
        parts = [part[suffix] for part in (retain, test, forget) if part is not None]
        if len(parts) < 3 or any(len(part.labels) < FOLDS for part in parts[:2]):
            continue
        if not all(part.usable for part in parts):
            continue
        scores = [answer_scores(part.logits, part.labels) for part in parts]
        attacks = {name: [-s[:, i] for s in scores] for i, name in enumerate(SCORES)}
        attacks["learned"] = list(learned_scores(*scores))
        for attack, (retained, unseen, forgotten) in attacks.items():
            for of, members in (("retain", retained), ("forget", forgotten)):
                found = separation(members, unseen)
                numbers = dict(zip(found._fields, found, strict=True))
                evidence.append({"attack": attack, "of": of, "when": when, **numbers})
                if attack == "learned":
                    row[f"mia_{of}{suffix}"] = found.auc
                    row[f"mia_{of}_found{suffix}"] = found.found
                elif (attack, of) == ("loss", "forget"):
                    row[f"mia_forget_loss{suffix}"] = found.auc
                    row[f"mia_forget_unlikely{suffix}"] = found.unlikely
    return row, evidence


def audit_features(forget: BeforeAfter, test: BeforeAfter | None) -> Row:
    """Accuracy of feature probes on forget and test images, before and after, in percent."""
    row: Row = {"n_probe": 0}
    for name, probe in LINEAR_PROBES.items():
        for suffix in WHEN:
            reading = None
            if test is not None and test[suffix].usable and forget[suffix].usable:
                (features, _, labels), (own, _, truth) = test[suffix], forget[suffix]
                reading = read_features(probe, features, labels, own, truth)
            row[f"{name}_forget{suffix}"] = None if reading is None else reading.forget
            row[f"{name}_test{suffix}"] = None if reading is None else reading.unseen
            row["n_probe"] = row["n_probe"] if reading is None else reading.n_unseen
    return row


def audit_retrieval(forget: BeforeAfter, retain: BeforeAfter | None) -> Row:
    """Retrieval among retained images by retained and forget queries, before and after."""
    row: Row = {}
    for suffix in WHEN:
        found: dict[str, Retrieval | None] = {"retain": None, "forget": None}
        if retain is not None and retain[suffix].usable and forget[suffix].usable:
            (gallery, _, classes), (own, _, truth) = retain[suffix], forget[suffix]
            found["retain"] = retrieve_among(gallery, classes)
            found["forget"] = retrieve(own, truth, gallery, classes)
        for of, hits in found.items():
            for name in RETRIEVAL:
                row[f"retrieval_{of}_{name}{suffix}"] = (
                    None if hits is None else getattr(hits, name)
                )
    return row


def audit_consistency(retain: BeforeAfter | None) -> tuple[Row, list[Row]]:
    """Cosine between the features of the same retained image before and after, and its density."""
    row: Row = {"consistency": None, "consistency_low": None}
    if retain is None or not all(retain[suffix].usable for suffix in WHEN):
        return row, []
    before, after = (retain[suffix].features for suffix in WHEN)
    if before.shape != after.shape:  # two kinds of network: their features have nothing in common
        return row, []
    cosines = torch.cosine_similarity(before, after)
    row["consistency"] = float(cosines.mean())
    row["consistency_low"] = float(cosines.quantile(0.05))
    return row, [{"cosine": x, "density": y} for x, y in density(cosines)]


def audit_answers(forget: BeforeAfter) -> Row:
    """How predictable the wrong answers on the forget images are.

    ``foretold`` is the percentage of them that were the original's second choice. An image that
    was wrong before has no new answer, and counts only towards the entropy.
    """
    labels, answers = forget[""].labels, forget[""].logits.argmax(1)
    wrong, known = answers != labels, correct(forget["_before"].logits, labels)
    row: Row = {"n_wrong": int(wrong.sum()), "foretold": None, "answer_entropy": None}
    if wrong.any():
        row["answer_entropy"] = answer_entropy(answers[wrong].tolist())
    if (wrong & known).any():
        second = second_choices(forget["_before"].logits, labels)
        row["foretold"] = percent((answers == second)[wrong & known])
    return row


def audit_likeness(forget: BeforeAfter, test: BeforeAfter | None) -> Row:
    """RF-JSD before and after, against the original's answers to unseen images."""
    row: Row = dict.fromkeys(f"rf_jsd{suffix}" for suffix in WHEN)
    if test is None or not test["_before"].usable:
        return row
    _, expected, classes = test["_before"]
    for suffix in WHEN:
        _, answers, labels = forget[suffix]
        if forget[suffix].usable:
            row[f"rf_jsd{suffix}"] = rf_jsd(answers, labels, expected, classes)
    return row


def audit_relearning(
    after: Classifier, forget: ForgetSet, scored: BeforeAfter, test: Sample | None
) -> Row:
    """Steps to relearn forgotten images, and as many misclassified test images for comparison.

    Images that were wrong before are left out: only a recognised image can be forgotten.
    """
    row: Row = {
        "relearn_forget": None,
        "relearn_test": None,
        "n_relearn": 0,
        "relearn_limit": STEPS,
    }
    if test is None or not (scored[""].usable and test.scored[""].usable):
        return row
    gone, missed = (~correct(part.logits, part.labels) for part in (scored[""], test.scored[""]))
    gone &= correct(scored["_before"].logits, scored["_before"].labels)
    own, missed = (found.nonzero()[:RELEARN, 0] for found in (gone, missed))
    count = min(len(own), len(missed))
    if count == 0:
        return row
    own, missed = own[:count], missed[:count]
    unseen = test.images.load([test.places[i] for i in missed.tolist()])
    for key, pixels, labels in (
        ("relearn_forget", forget.images[own.to(forget.images.device)], scored[""].labels[own]),
        ("relearn_test", unseen, test.scored[""].labels[missed]),
    ):
        row[key] = relearn_steps(after, pixels.to(after.device), labels.to(after.device))
    return row | {"n_relearn": count}
