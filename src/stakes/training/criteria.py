"""When an image counts as forgotten: criteria, each a lead that has to fall below 0."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stakes.training.losses import margins

CriterionName = Literal["exact", "deep", "views"]
Lead = Callable[[Tensor, Tensor], Tensor]
"""Logits (n, c) and true labels (n,) to how far each row is from being forgotten (n,), logits."""


def deep_lead(logits: Tensor, labels: Tensor) -> Tensor:
    """The larger of z_y - z_(2) and log p_y + log c, for each row (n,).

    z_(2) is the second largest logit of the other classes. So the lead is negative where the true
    class is neither the first nor the second choice, and its probability p_y is below 1/c, that of
    a blind guess. Of two classes there is no second other one; the only other one then counts.

    >>> deep_lead(torch.tensor([[0.0, 4.0, 5.0], [4.0, 0.0, 5.0]]), torch.tensor([0, 0])).tolist()
    [-4.0, 4.0]
    """
    others = logits.scatter(1, labels[:, None], float("-inf"))
    second = others.topk(min(2, logits.shape[1] - 1), dim=1).values[:, -1]
    rank = logits.gather(1, labels[:, None])[:, 0] - second
    probability = logits.log_softmax(1).gather(1, labels[:, None])[:, 0]
    return torch.maximum(rank, probability + math.log(logits.shape[1]))


@dataclass(frozen=True)
class Criterion:
    """What a run asks of the forget images.

    Attributes:
        lead: has to fall below 0 for every image.
        met: what is so once it has, in words.
        met_of_two: the same of a network with two classes, one of which is always second choice.
        views: whether it has to for altered copies too.
    """

    lead: Lead
    met: str
    met_of_two: str
    views: bool = False

    def words(self, classes: int) -> str:
        """What is so once a network of so many classes meets it."""
        return self.met if classes > 2 else self.met_of_two


MISCLASSIFIED = "every forget image is misclassified"
IN_DEPTH = "no forget image's class is first or second choice"

CRITERIA: dict[CriterionName, Criterion] = {
    "exact": Criterion(margins, MISCLASSIFIED, MISCLASSIFIED),
    "deep": Criterion(deep_lead, IN_DEPTH, MISCLASSIFIED),
    "views": Criterion(
        deep_lead,
        f"{IN_DEPTH}, nor is it for most copies",
        f"{MISCLASSIFIED}, and so are most copies",
        views=True,
    ),
}
"""The paper's (misclassified), and what goes beyond it: in depth, then in breadth as well."""


@dataclass(frozen=True)
class Goal:
    """A lead for the images of one forget set, each of which may be sent to a class of its own.

    Attributes:
        lead: of a criterion.
        towards: (k,) the class that each forget image has to be given, where they are sent.
        met: what is so once the images, and copies where these are watched, meet the criterion.
    """

    lead: Lead = margins
    towards: Tensor | None = None
    met: str = MISCLASSIFIED

    def of(self, logits: Tensor, labels: Tensor, pick: Tensor | None = None) -> Tensor:
        """The lead (n,) of logits (n, c), rows ``pick`` of the forget set; all by default.

        >>> goal = Goal(towards=torch.tensor([2]))
        >>> goal.of(torch.tensor([[0.0, 4.0, 3.0]]), torch.tensor([0])).tolist()
        [1.0]
        """
        found = self.lead(logits, labels)
        if self.towards is None:
            return found
        towards = self.towards if pick is None else self.towards[pick]
        return torch.maximum(found, -margins(logits, towards))


EXACT = Goal()  # the paper's, and what every published method is stopped by
