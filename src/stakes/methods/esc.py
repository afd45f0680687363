"""ESC: take the main directions of the forget features out of what the head reads."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stakes.errors import InputError
from stakes.methods.base import Method, hyper
from stakes.methods.task import Task, Unlearned
from stakes.training.search import escalate


@dataclass(frozen=True, kw_only=True)
class ESC(Method):
    """``h(x) = W (I - U_m U_m^T) g(x) + b``, U_m of the forget features (Lee et al., CVPR 2025).

    U_m (d, m) are the first m left singular vectors of the forget features, one image a column. As
    published, ``share`` of the directions are removed once. With more ``max_steps``, the same
    number again is removed until every forget image is misclassified; the m reached is ``chosen``.
    ESC is made for whole classes: the first directions of images of all classes are those that
    separate all classes.

    Differences from the authors' code: the projection is multiplied into the head's weight, so
    that the architecture stays as it was, and the features before it do too; one direction is
    removed where ``share`` of d is less than one; features are those of the images as they are, in
    eval mode. Theirs are of images mirrored at random, in train mode, which moves the BatchNorm
    statistics of the network that is saved.
    """

    title: ClassVar[str] = "ESC"

    share: float = hyper(
        0.015, "share of the d directions removed at a time, at least one", "public code"
    )
    max_steps: int = hyper(1, "numbers of directions tried", "public code: one", low=1)

    def unlearn(self, task: Task) -> Unlearned:
        """Find the directions, then remove as many as it takes."""
        weight = task.live.head.weight
        if not weight.requires_grad:
            raise InputError("ESC changes the head, which is frozen; unfreeze it")
        origin = weight.detach().clone()
        with torch.no_grad():
            features = torch.cat([task.live.features(x) for x in task.forget.images.split(256)])
        directions = torch.linalg.svd(features.T, full_matrices=False).U

        @torch.no_grad()
        def change(count: float) -> None:
            weight.copy_(without(origin, directions[:, : int(count)]))

        each = max(1, int(self.share * task.live.feature_width))
        rank = directions.shape[1]
        counts = [*map(float, range(each, rank, each)), float(rank)][: self.max_steps]
        with task.timed("unlearn"):
            history, ending = escalate(
                task.live, change, counts, task.monitor(), progress=task.progress
            )
        return task.result(history, ending, chosen={"directions": history[-1]["strength"]})


def without(rows: Tensor, directions: Tensor) -> Tensor:
    """The rows (n, d) less their part in the span of orthonormal directions (d, m).

    >>> without(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0], [0.0]]))
    tensor([[0., 4.]])
    """
    return rows - rows @ directions @ directions.T
