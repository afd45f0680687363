"""Features and logits of images, whether they are recognised, and how high their class ranks."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stakes.data.images import Images
from stakes.models.classifier import Classifier

WHEN = {"_before": "before", "": "after"}
REFERENCE = "_reference"  # suffix of a network to compare with


class Scored(NamedTuple):
    """Features (n, d), logits (n, c) and true classes int64 (n,) of n images, on the CPU."""

    features: Tensor
    logits: Tensor
    labels: Tensor

    @property
    def usable(self) -> bool:
        """Whether every number is finite, as in a network that did not break down."""
        return bool(self.features.isfinite().all() and self.logits.isfinite().all())


BeforeAfter = Mapping[str, Scored]
"""By the suffix of the network: ``_before``, nothing, the name of a further path, or
:data:`REFERENCE`."""


class Sample(NamedTuple):
    """Features and logits of images of a set, in random order, and the images' indices in it."""

    scored: BeforeAfter
    images: Images
    places: Sequence[int]


class Depth(NamedTuple):
    """Probability and rank of the true class, for each of n images.

    Attributes:
        probability: float64 (n,), percent.
        rank: int64 (n,), from 1; 1 means that the image is recognised.
    """

    probability: Tensor
    rank: Tensor


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether each row of logits (n, c) is largest at its label (n,): bool (n,)."""
    return logits.argmax(1) == labels


def depth(logits: Tensor, labels: Tensor) -> Depth:
    """Probability and rank of the true class, from logits (n, c) and labels (n,).

    >>> depth(torch.tensor([[0.0, 0.0, -torch.inf], [3.0, 5.0, 4.0]]), torch.tensor([0, 0]))
    Depth(probability=tensor([50.0000,  9.0031], dtype=torch.float64), rank=tensor([1, 3]))
    """
    labels = labels.to(logits.device)[:, None]
    true = logits.double().softmax(1).gather(1, labels)[:, 0]
    order = logits.argsort(dim=1, descending=True, stable=True)
    return Depth(100 * true, (order == labels).int().argmax(1) + 1)


@torch.no_grad()
def score(network: Classifier, images: Tensor, labels: Tensor) -> Scored:
    """Features and logits of images (n, 3, h, w) with labels (n,), 256 images at a time."""
    parts = zip(images.split(256), labels.split(256), strict=True)
    return joined([Scored(*(t.cpu() for t in (*network.both(x), y))) for x, y in parts])


def joined(parts: list[Scored]) -> Scored:
    """Several batches as one."""
    return Scored(*(torch.cat(column) for column in zip(*parts, strict=True)))


def percent(hits: Tensor) -> float:
    """The share of True in bool (n,), in percent."""
    return 100.0 * float(hits.double().mean())
