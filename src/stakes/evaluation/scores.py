"""What networks make of images: features and logits, right or wrong, and how deep a class lies."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from stakes.models.classifier import Classifier

WHEN = {"_before": "before", "": "after"}
REFERENCE = "_reference"  # suffix of a network to compare with


class Scored(NamedTuple):
    """Features (n, d), logits (n, c) and true classes (n,) of images, all on the CPU."""

    features: Tensor
    logits: Tensor
    labels: Tensor

    @property
    def usable(self) -> bool:
        """Whether every number is finite: a network that broke down has nothing to read."""
        return bool(self.features.isfinite().all() and self.logits.isfinite().all())


BeforeAfter = Mapping[str, Scored]
"""By the suffix of the network: ``_before``, nothing, the name of a further path, or
:data:`REFERENCE`."""


class Depth(NamedTuple):
    """How strongly images are tied to their true class.

    Attributes:
        probability: float64 (n,), percent that the network gives to the true class.
        rank: int64 (n,), the place of the true class among the answers; 1 means recognised.
    """

    probability: Tensor
    rank: Tensor


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Which rows of logits (n, c) are largest at their label (n,): bool (n,)."""
    return logits.argmax(1) == labels


def depth(logits: Tensor, labels: Tensor) -> Depth:
    """Probability and rank of the true class in logits (n, c) with labels (n,).

    >>> depth(torch.tensor([[0.0, 0.0, -torch.inf], [3.0, 5.0, 4.0]]), torch.tensor([0, 0]))
    Depth(probability=tensor([50.0000,  9.0031], dtype=torch.float64), rank=tensor([1, 3]))
    """
    labels = labels.to(logits.device)[:, None]
    true = logits.double().softmax(1).gather(1, labels)[:, 0]
    order = logits.argsort(dim=1, descending=True, stable=True)
    return Depth(100 * true, (order == labels).int().argmax(1) + 1)


@torch.no_grad()
def score(network: Classifier, images: Tensor, labels: Tensor) -> Scored:
    """What a network makes of images (n, 3, h, w) with labels (n,)."""
    parts = zip(images.split(256), labels.split(256), strict=True)
    return joined([Scored(*(t.cpu() for t in (*network.both(x), y))) for x, y in parts])


def joined(parts: list[Scored]) -> Scored:
    """Batches as one."""
    return Scored(*(torch.cat(column) for column in zip(*parts, strict=True)))


def percent(hits: Tensor) -> float:
    """The share of True in bool (n,), in percent."""
    return 100.0 * float(hits.double().mean())
