"""The evidence beyond accuracy, from what has been scored: attacks, features, answers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stakes.classifier import Classifier
from stakes.data import Images
from stakes.forget import ForgetSet
from stakes.knowledge import (
    PROBES,
    STEPS,
    answer_entropy,
    density,
    read_features,
    relearn_steps,
)
from stakes.losses import second_choices
from stakes.membership import FOLDS, SCORES, answer_scores, learned_scores, separation
from stakes.metrics import correct
from stakes.pictures import thumbnail
from stakes.progress import Report, silent
from stakes.retrieval import Retrieval, retrieve, retrieve_among
from stakes.saliency import grad_cam, overlay

KEPT = 2048  # images of each set whose features and logits are kept; whole batches
RELEARN = 16  # images trained on at once
SHOWN = 8  # pictures with Grad-CAM
WHEN = {"_before": "before", "": "after"}
MEMBERSHIP = (
    "mia_retain",
    "mia_retain_found",
    "mia_forget",
    "mia_forget_found",
    "mia_forget_loss",
    "mia_forget_unlikely",
)
RETRIEVAL = ("r1", "r5", "r10", "map")
Row = dict[str, Any]
Evidence = dict[str, list[Row]]


class Scored(NamedTuple):
    """Features (n, d), logits (n, c) and true classes (n,) of images, all on the CPU."""

    features: Tensor
    logits: Tensor
    labels: Tensor

    @property
    def usable(self) -> bool:
        """Whether every number is finite: a network that broke down has nothing to read."""
        return bool(self.features.isfinite().all() and self.logits.isfinite().all())


Both = Mapping[str, Scored]  # by the suffix of the network: "_before" and ""


def audit(
    before: Classifier,
    after: Classifier,
    forget: ForgetSet,
    gone: Both,
    *,
    test: Both | None = None,
    retain: Both | None = None,
    images: Images | None = None,
    places: Sequence[int] = (),
    thumbnails: bool = True,
    report: Report = silent,
) -> tuple[Row, Evidence]:
    """All the measures here, from what the networks (in eval mode) made of the images.

    Args:
        before: the classifier as it was.
        after: the classifier to deploy.
        forget: the pictures that were to be forgotten, on the classifiers' device.
        gone: their features and logits.
        test: those of images of no training set, in random order.
        retain: those of training images that were to be kept, in random order.
        images: the set that ``test`` is of.
        places: where in it the images of ``test`` are.
        thumbnails: whether the evidence shows the forget images.
        report: progress.

    Returns:
        The row, None for what was not measured, and the evidence; each a part of what
        :func:`stakes.evaluate.evaluate` returns.
    """
    report("looking for traces", 0, 1)
    row: Row = {
        "n_audit_test": len(test[""].labels) if test else 0,
        "n_audit_retain": len(retain[""].labels) if retain else 0,
    }
    attacks, membership = audit_membership(gone, test, retain)
    row |= attacks | audit_features(gone, test) | audit_retrieval(gone, retain)
    row |= audit_answers(gone)
    row |= audit_relearning(after, forget, gone, test, images, places)
    turned, consistency = audit_consistency(retain)
    saliency = audit_saliency(before, after, forget) if thumbnails else []
    report("looking for traces", 1, 1)
    evidence = {"membership": membership, "consistency": consistency, "saliency": saliency}
    return row | turned, evidence


def audit_membership(forget: Both, test: Both | None, retain: Both | None) -> tuple[Row, list[Row]]:
    """Membership inference against the network, and on the forget images, before and after."""
    row: Row = dict.fromkeys(f"{key}{suffix}" for key in MEMBERSHIP for suffix in WHEN)
    told: list[Row] = []
    for suffix, when in WHEN.items():
        parts = [part[suffix] for part in (retain, test, forget) if part is not None]
        if len(parts) < 3 or any(len(part.labels) < FOLDS for part in parts[:2]):
            continue
        if not all(part.usable for part in parts):
            continue
        scores = [answer_scores(part.logits, part.labels) for part in parts]
        attacks = {name: [-s[:, i] for s in scores] for i, name in enumerate(SCORES)}
        attacks["learned"] = list(learned_scores(*scores))
        for attack, (kept, unseen, gone) in attacks.items():
            for of, members in (("retain", kept), ("forget", gone)):
                found = separation(members, unseen)
                numbers = dict(zip(found._fields, found, strict=True))
                told.append({"attack": attack, "of": of, "when": when, **numbers})
                if attack == "learned":
                    row[f"mia_{of}{suffix}"] = found.auc
                    row[f"mia_{of}_found{suffix}"] = found.found
                elif (attack, of) == ("loss", "forget"):
                    row[f"mia_forget_loss{suffix}"] = found.auc
                    row[f"mia_forget_unlikely{suffix}"] = found.unlikely
    return row, told


def audit_features(forget: Both, test: Both | None) -> Row:
    """What probes find in the features of forget and test images, before and after."""
    row: Row = {"n_probe": 0}
    for name, probe in PROBES.items():
        for suffix in WHEN:
            reading = None
            if test is not None and test[suffix].usable and forget[suffix].usable:
                (features, _, labels), (own, _, truth) = test[suffix], forget[suffix]
                reading = read_features(probe, features, labels, own, truth)
            row[f"{name}_forget{suffix}"] = None if reading is None else reading.forget
            row[f"{name}_test{suffix}"] = None if reading is None else reading.unseen
            row["n_probe"] = row["n_probe"] if reading is None else reading.n_unseen
    return row


def audit_retrieval(forget: Both, retain: Both | None) -> Row:
    """What retained and forget images find among the retained ones, before and after."""
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


def audit_consistency(retain: Both | None) -> tuple[Row, list[Row]]:
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


def audit_answers(forget: Both) -> Row:
    """How predictable the wrong answers on the forget images are."""
    labels, answers = forget[""].labels, forget[""].logits.argmax(1)
    wrong = answers != labels
    row: Row = {"n_wrong": int(wrong.sum()), "second_choice": None, "answer_entropy": None}
    if wrong.any():
        second = second_choices(forget["_before"].logits, labels)
        row["second_choice"] = 100.0 * float((answers == second)[wrong].double().mean())
        row["answer_entropy"] = answer_entropy(answers[wrong].tolist())
    return row


def audit_relearning(
    after: Classifier,
    forget: ForgetSet,
    gone: Both,
    test: Both | None,
    images: Images | None,
    places: Sequence[int],
) -> Row:
    """Steps to relearn forgotten images, and as many test images that are misclassified too."""
    row: Row = {
        "relearn_forget": None,
        "relearn_test": None,
        "n_relearn": 0,
        "relearn_limit": STEPS,
    }
    if test is None or images is None or not (gone[""].usable and test[""].usable):
        return row
    own, missed = (
        (~correct(part.logits, part.labels)).nonzero()[:RELEARN, 0] for part in (gone[""], test[""])
    )
    count = min(len(own), len(missed))
    if count == 0:
        return row
    own, missed = own[:count], missed[:count]
    unseen = images.load([places[i] for i in missed.tolist()])
    for key, pixels, labels in (
        ("relearn_forget", forget.images[own.to(forget.images.device)], gone[""].labels[own]),
        ("relearn_test", unseen, test[""].labels[missed]),
    ):
        row[key] = relearn_steps(after, pixels.to(after.device), labels.to(after.device))
    return row | {"n_relearn": count}


def audit_saliency(before: Classifier, after: Classifier, forget: ForgetSet) -> list[Row]:
    """Grad-CAM for the true class of the first forget pictures, before and after on one scale."""
    images, labels = forget.images[:SHOWN], forget.labels[:SHOWN]
    was, now = (grad_cam(network, images, labels) for network in (before, after))
    if was is None or now is None:
        return []
    scale = torch.maximum(was, now).amax((1, 2)).clamp_min(torch.finfo(was.dtype).tiny)
    return [
        {
            "name": forget.names[i],
            "label": before.class_names[int(labels[i])],
            "picture": thumbnail(image),
            "before": thumbnail(overlay(image, was[i] / scale[i])),
            "after": thumbnail(overlay(image, now[i] / scale[i])),
        }
        for i, image in enumerate(images)
    ]
