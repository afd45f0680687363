"""Accuracy on test and retained images: overall, by class, and on classes forgotten as a whole."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stakes.data.images import Images, batches
from stakes.data.retain import Drawn
from stakes.data.transfer import to_device
from stakes.evaluation.audit import AUDITED
from stakes.evaluation.kept import Answers, Kept
from stakes.evaluation.scores import (
    WHEN,
    BeforeAfter,
    Sample,
    Scored,
    correct,
    joined,
    percent,
    score,
)
from stakes.models.classifier import Classifier
from stakes.progress import Progress

Row = dict[str, Any]
EMPTY = torch.zeros(0, dtype=torch.int64)


def accuracies(
    networks: Mapping[str, Classifier],
    sets: Mapping[str, Images | None],
    selected: Mapping[str, Drawn],
    forgotten: Sequence[int],
    compared: Mapping[str, Classifier],
    kept: Kept,
    progress: Progress,
) -> tuple[Row, list[dict[str, Any]], dict[str, Sample | None]]:
    """Score every network on the selected test and retained images.

    Args:
        networks: by suffix: ``_before``, nothing, and the names of further paths; in eval mode.
        sets: the ``test`` and ``retain`` images, None where there are none.
        selected: which of them to score.
        forgotten: the classes that were to be forgotten as a whole.
        compared: by suffix, networks to compare with, scored on the audited images only.
        kept: the answers of an interrupted run.
        progress: called with phase, images scored, images to score and a note.

    Returns:
        The row: accuracies in percent over all images, and over the classes ``forgotten`` and all
        others. A record per class: its number of test images and its accuracies. And by set, the
        features and logits of its first :data:`AUDITED` images; None where it was not scored.
    """
    names = networks[""].class_names
    row: Row = {}
    classes: list[dict[str, Any]] = [
        {"name": name, "n_test": 0, "acc_test_before": None, "acc_test": None} for name in names
    ]
    samples: dict[str, Sample | None] = dict.fromkeys(sets)
    tested = dict.fromkeys(networks, EMPTY), EMPTY
    for name, images in sets.items():
        chosen = selected[name].places if name in selected else []
        if images is None or not chosen:
            row |= _unmeasured(name, networks)
            continue
        digest = hashlib.sha256()
        right, labels, scored = _score(
            networks, compared, images, chosen, digest, kept, partial(progress, f"scoring {name}")
        )
        row |= _measured(name, right) | {f"{name}_digest": digest.hexdigest()}
        samples[name] = Sample(scored, images, chosen)
        if name == "test":
            _fill_classes(classes, right, labels)
            tested = right, labels
    row |= _whole_classes(*tested, forgotten)
    row["forgotten_classes"] = [names[i] for i in forgotten] or None
    return row, classes, samples


def _unmeasured(name: str, networks: Mapping[str, Classifier]) -> Row:
    """The part of the row for a set without images."""
    lost = {f"n_{name}_lost": None, f"n_{name}_gained": None, f"{name}_digest": None}
    return {f"n_{name}": 0, **{f"acc_{name}{suffix}": None for suffix in networks}, **lost}


def _measured(name: str, right: Mapping[str, Tensor]) -> Row:
    """The part of the row for a set, from which images each network recognises, bool (n,)."""
    was, now = right["_before"], right[""]
    return {
        f"n_{name}": len(now),
        **{f"acc_{name}{suffix}": percent(hits) for suffix, hits in right.items()},
        f"n_{name}_lost": int((was & ~now).sum()),
        f"n_{name}_gained": int((now & ~was).sum()),
    }


@torch.no_grad()
def _score(
    networks: Mapping[str, Classifier],
    compared: Mapping[str, Classifier],
    images: Images,
    chosen: list[int],
    digest: "hashlib._Hash",
    kept: Kept,
    progress: Callable[[int, int], None],
) -> tuple[dict[str, Tensor], Tensor, BeforeAfter]:
    """Score the chosen images by each network, reading each image once.

    ``digest`` takes in the pixels and labels in their order: it is of what was scored.

    Returns:
        Which images each network recognises, bool (n,) by suffix; the labels (n,); and features
        and logits of the first ``AUDITED`` images, before, after and ``compared``.
    """
    right: dict[str, list[Tensor]] = {suffix: [] for suffix in networks}
    first = {suffix: networks[suffix] for suffix in WHEN} | {**compared}
    answers: dict[str, list[Scored]] = {suffix: [] for suffix in first}
    done = 0
    for pixels, truth in batches(images, chosen):
        digest.update(pixels.numpy().tobytes() + truth.numpy().tobytes())
        audited = first if done < AUDITED else {}
        found = kept.answers(
            f"{digest.hexdigest()} {len(audited)}",
            partial(_answers, networks, audited, pixels, truth),
        )
        for suffix, parts in right.items():
            parts.append(found[f"right{suffix}"])
        for suffix in audited:
            features, logits = found[f"features{suffix}"], found[f"logits{suffix}"]
            answers[suffix].append(Scored(features, logits, truth))
        done += len(truth)
        progress(done, len(chosen))
    hits = {suffix: torch.cat(parts) for suffix, parts in right.items()}
    return hits, images.labels[chosen], {suffix: joined(parts) for suffix, parts in answers.items()}


def _answers(
    networks: Mapping[str, Classifier],
    audited: Mapping[str, Classifier],
    pixels: Tensor,
    truth: Tensor,
) -> Answers:
    """Whether each network is right on each image; features and logits of the audited ones."""
    found: Answers = {}
    for suffix, network in {**audited, **networks}.items():
        scored = score(network, to_device(pixels, network.device), truth)
        if suffix in networks:
            found[f"right{suffix}"] = correct(scored.logits, truth)
        if suffix in audited:
            found |= {f"features{suffix}": scored.features, f"logits{suffix}": scored.logits}
    return found


def _fill_classes(
    classes: list[dict[str, Any]], right: Mapping[str, Tensor], labels: Tensor
) -> None:
    for index, row in enumerate(classes):
        mine = labels == index
        if mine.any():
            row["n_test"] = int(mine.sum())
            row["acc_test_before"] = percent(right["_before"][mine])
            row["acc_test"] = percent(right[""][mine])


def _whole_classes(right: Mapping[str, Tensor], labels: Tensor, forgotten: Sequence[int]) -> Row:
    """Test accuracy on classes forgotten as a whole and on the others; None if there are none."""
    among = torch.isin(labels, torch.tensor(forgotten, dtype=torch.int64))
    row: Row = {}
    for name, mine in (("test_forgotten_classes", among), ("test_kept_classes", ~among)):
        measured = bool(forgotten) and bool(mine.any())
        found = _measured(name, {suffix: hits[mine] for suffix, hits in right.items()})
        row |= found if measured else dict.fromkeys(found)
    return row
