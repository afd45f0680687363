"""An attack by altered copies: a network changed on an image alone contradicts itself on them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stakes.data.transfer import to_device
from stakes.data.views import VIEWS
from stakes.evaluation.membership import Floats, separation
from stakes.evaluation.scores import Depth, Sample, Scored, depth
from stakes.models.classifier import Classifier

CONTRASTED = 256  # test images whose altered copies are scored
AT_ONCE = 32  # of these, of which all copies are made at once
Row = dict[str, Any]


def audit_contrast(
    after: Classifier, forget: Scored, copies: Sequence[Depth], test: Sample | None
) -> tuple[Row, list[Row]]:
    """An attack by altered copies: their class against that of the image, which alone was changed.

    Returns:
        For the row, its AUC and the percentage found; and its record.
    """
    row: Row = {"contrast_forget": None, "contrast_forget_found": None}
    if test is None or not copies or not (forget.usable and test.scored[""].usable):
        return row, []
    known = Scored(*(part[:CONTRASTED] for part in test.scored[""]))
    places = list(test.places[: len(known.labels)])
    parts = [
        _copies(after, test.images.load(places[i : i + AT_ONCE]), known.labels[i : i + AT_ONCE])
        for i in range(0, len(places), AT_ONCE)
    ]
    own, unseen = (depth(part.logits, part.labels).probability for part in (forget, known))
    altered = torch.stack([copy.probability for copy in copies])
    found = separation(contrast(own, altered), contrast(unseen, torch.cat(parts, 1)))
    row |= {"contrast_forget": found.auc, "contrast_forget_found": found.found}
    numbers = dict(zip(found._fields, found, strict=True))
    return row, [{"attack": "copies", "of": "forget", "when": "after", **numbers}]


@torch.no_grad()
def _copies(network: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """Probability (copies, n) of the true class in every altered copy that is scored, percent."""
    images = to_device(images, network.device)
    shown = [copy for view in VIEWS.values() for copy in view(images)]
    return torch.stack([depth(network(copy).cpu(), labels).probability for copy in shown])


def contrast(own: Tensor, copies: Tensor) -> Floats:
    """How much likelier its class is in altered copies of an image than in the image, in nats.

    Where a network was changed on an image and not on its copies, this is large.

    Args:
        own: (n,) probability of the true class of each image, above 0.
        copies: (m, n) the same of m copies of each.

    Returns:
        float64 (n,), the median over the copies of log(copy / own).

    >>> contrast(torch.tensor([0.5]), torch.tensor([[0.5], [1.0], [1.0]])).round(2)
    array([0.69])
    """
    least = torch.finfo(torch.float64).tiny
    logs = (part.detach().cpu().double().clamp_min(least).log() for part in (own, copies))
    alone, altered = (log.numpy() for log in logs)
    return np.asarray(np.median(altered - alone, axis=0), dtype=np.float64)
