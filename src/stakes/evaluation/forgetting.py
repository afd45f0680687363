"""The forget images and their altered copies after unlearning: state, depth, and evidence."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stakes.data.decode import thumbnail
from stakes.data.forget import ForgetSet
from stakes.data.views import VIEWS
from stakes.evaluation.kept import Answers, Kept
from stakes.evaluation.scores import (
    WHEN,
    BeforeAfter,
    Depth,
    Scored,
    correct,
    depth,
    percent,
    score,
)
from stakes.files import tensor_digest
from stakes.models.classifier import Classifier

Row = dict[str, Any]
Copies = Mapping[str, Sequence[Depth]]
"""Kind of altered copy -> depth of the copies, one entry (k images) for each copy of an image."""

FORGOTTEN, RECOGNISED, NEVER = "forgotten", "recognised", "never recognised"
MANY = 10  # classes beyond which the first five choices are counted too


def states(scored: BeforeAfter) -> list[str]:
    """The state of each image; only what was recognised before can be forgotten."""
    before, after = (correct(scored[suffix].logits, scored[suffix].labels) for suffix in WHEN)
    return [
        RECOGNISED if now else FORGOTTEN if was else NEVER
        for was, now in zip(before.tolist(), after.tolist(), strict=True)
    ]


def forget_answers(
    networks: Mapping[str, Classifier], forget: ForgetSet, kept: Kept
) -> tuple[dict[str, Scored], dict[str, Copies]]:
    """Score the forget images, and the depth of their altered copies of every kind in ``VIEWS``.

    Args:
        networks: by suffix, in eval mode.
        forget: the images, on the networks' device.
        kept: the answers of an interrupted run.

    Returns:
        Features and logits of the images, and the depth of their copies, by suffix.
    """
    labels = forget.labels.cpu()
    shown = tensor_digest({"images": forget.images, "labels": labels})  # in their order
    scored: dict[str, Scored] = {}
    copies: dict[str, Copies] = {}
    for suffix, network in networks.items():
        found = kept.answers(f"forget{suffix} {shown}", partial(_answers, network, forget))
        scored[suffix] = Scored(found["features"], found["logits"], labels)
        copies[suffix] = {name: [depth(logits, labels) for logits in found[name]] for name in VIEWS}
    return scored, copies


@torch.no_grad()
def _answers(network: Classifier, forget: ForgetSet) -> Answers:
    """Features and logits of the images, and logits (copies, k, c) of each kind of copy."""

    def logits(images: Tensor) -> Tensor:
        return torch.cat([network(batch) for batch in images.split(256)]).cpu()

    features, own, _ = score(network, forget.images, forget.labels)
    copies = {
        name: torch.stack([logits(copy) for copy in view(forget.images)])
        for name, view in VIEWS.items()
    }
    return {"features": features, "logits": own, **copies}


def forget_scores(scored: BeforeAfter, copies: Mapping[str, Copies]) -> Row:
    """How many images are in which state, and how deep images and copies are forgotten.

    Args:
        scored: features and logits of the images, by the suffix of the network.
        copies: depth of their altered copies, likewise.

    Returns:
        Counts of the states; accuracies and probabilities in percent, with the suffix of each
        network, under the keys of :data:`stakes.rows.METRICS`.
    """
    found = states(scored)
    row: Row = {
        "n_forgotten": found.count(FORGOTTEN),
        "n_recognised": found.count(RECOGNISED),
        "n_never_recognised": found.count(NEVER),
    }
    for suffix, (_, logits, labels) in scored.items():
        own = depth(logits, labels)
        many = logits.shape[1] > MANY
        row |= {
            f"acc_forget{suffix}": percent(correct(logits, labels)),
            f"forget_top2{suffix}": percent(own.rank <= 2),
            f"forget_top5{suffix}": percent(own.rank <= 5) if many else None,
            f"forget_true_probability{suffix}": float(own.probability.mean()),
            f"forget_true_probability_max{suffix}": float(own.probability.max()),
        }
        kinds = {name: _together(parts) for name, parts in copies[suffix].items()}
        row |= {f"{name}{suffix}": percent(kind.rank == 1) for name, kind in kinds.items()}
        for key, values in {
            "forget_views": [percent(kind.rank == 1) for kind in kinds.values()],
            "forget_views_top2": [percent(kind.rank <= 2) for kind in kinds.values()],
            "forget_views_true_probability": [
                float(kind.probability.mean()) for kind in kinds.values()
            ],
        }.items():
            row[f"{key}{suffix}"] = sum(values) / len(values)
    return row


def forget_evidence(
    names: Sequence[str],
    forget: ForgetSet,
    scored: BeforeAfter,
    copies: Mapping[str, Copies],
    thumbnails: bool,
) -> list[Row]:
    """A record for each forget image, before and after.

    Keys are ``name``, ``label``, ``state`` and ``thumbnail``. The following end in ``before`` or
    ``after``: the predicted class (no prefix) and its probability (``_confidence``); probability
    and rank of the true class, in the image (``true_``, ``rank_``) and in the mirrored image
    (``mirrored_``, ``mirrored_rank_``); how many of its ``copies`` are recognised (``copies_``);
    and the highest probability of the true class in a copy (``copies_most_``). Probabilities are
    in percent.
    """
    rows: list[Row] = [
        {"name": name, "label": names[int(label)], "state": state}
        for name, label, state in zip(forget.names, forget.labels, states(scored), strict=True)
    ]
    for suffix, when in WHEN.items():
        answers = scored[suffix].logits.double().softmax(1).max(1)
        own = depth(scored[suffix].logits, scored[suffix].labels)
        mirrored = _together(copies[suffix]["forget_flip"])
        altered = [copy for kind in copies[suffix].values() for copy in kind]
        known = torch.stack([copy.rank == 1 for copy in altered]).sum(0)
        most = torch.stack([copy.probability for copy in altered]).amax(0)
        for i, row in enumerate(rows):
            row[when] = names[int(answers.indices[i])]
            row |= {
                f"{when}_confidence": 100.0 * float(answers.values[i]),
                f"true_{when}": float(own.probability[i]),
                f"rank_{when}": int(own.rank[i]),
                f"mirrored_{when}": float(mirrored.probability[i]),
                f"mirrored_rank_{when}": int(mirrored.rank[i]),
                "copies": len(altered),
                f"copies_{when}": int(known[i]),
                f"copies_most_{when}": float(most[i]),
            }
    for i, row in enumerate(rows):
        row["thumbnail"] = thumbnail(forget.images[i]) if thumbnails else None
    return rows


def _together(parts: Sequence[Depth]) -> Depth:
    return Depth(*(torch.cat(column) for column in zip(*parts, strict=True)))
