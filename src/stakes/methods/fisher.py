"""Fisher forgetting: noise on the weights, the more the less the Fisher information."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from stakes.errors import InputError
from stakes.methods.base import Method, hyper
from stakes.methods.task import Task, Unlearned
from stakes.models.classifier import Classifier
from stakes.training.search import escalate

FLOOR = 1e-8
"""Added to F before it is inverted."""
CAP, HEAD_CAP = 1e3, 1e2
"""The most that 1/F counts, and in the head."""
BOOST = 10
"""By how much more the head's variance counts, and that of BatchNorm and of biases."""


@dataclass(frozen=True, kw_only=True)
class Fisher(Method):
    """``theta = theta_0 + sqrt(alpha v) n``, n standard normal, v the inverse of F.

    Golatkar et al., CVPR 2020. F is the diagonal of the Fisher information of the forget set, as
    "Stake the Points" says (App. A); in its own paper F is that of the retained data, so that
    noise falls on weights that these do not need. On the forget set it falls, instead, on all
    weights that the forgotten images do not need, and much is destroyed before they are
    forgotten; the results of "Stake the Points" say so too. That paper adds only that influential
    weights are suppressed, and has no code for it: the noise is that of the public code.

    v is 1/F, capped, then averaged over the second dimension of a weight (a row of a linear
    layer, the input channels of a convolution), then ten times as large for the head and for
    parameters of one dimension.

    As published, one strength is tried. With ``max_steps``, alpha grows to ``alpha_max`` until
    every forget image is misclassified, with one n for all; the alpha taken is ``chosen``.

    Differences from the authors' code: F on the forget set; of more than ``fisher_classes``
    classes, the most probable ones stand for all; the head is identified by its position, where
    theirs takes every parameter with as many rows as classes for it; to forget a whole class,
    theirs also sets the class's row of the head to zero and gives it noise of a fixed variance.
    """

    title: ClassVar[str] = "Fisher forgetting"

    alpha: float = hyper(
        1e-6, "first strength tried: the variance of the noise, times F", "public code", above=0
    )
    alpha_max: float = hyper(1e-6, "last strength tried", "public code: none")
    fisher_classes: int = hyper(
        10, "most probable classes of an image that F is summed over", low=1
    )
    max_steps: int = hyper(
        1, "strengths tried, from alpha to alpha_max in equal ratios", "public code", low=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha > self.alpha_max:
            raise InputError(
                f"alpha={self.alpha}: give a number of at most alpha_max={self.alpha_max}"
            )

    def unlearn(self, task: Task) -> Unlearned:
        """Estimate F, draw the noise, then turn it up."""
        parameters = task.trainable()
        origin = {name: p.detach().clone() for name, p in parameters.items()}
        with task.timed("importance"):
            fisher = fisher_diagonal(
                parameters,
                task.live,
                task.forget.images,
                self.fisher_classes,
                lambda done, total: task.progress("importance", done, total),
            )
        noise = {
            name: torch.randn(value.shape, generator=task.generator).to(value)
            * inverse(value, in_head=name.startswith("head.")).sqrt()
            for name, value in fisher.items()
        }

        @torch.no_grad()
        def change(alpha: float) -> None:
            for name, parameter in parameters.items():
                parameter.copy_(origin[name] + alpha**0.5 * noise[name])

        alphas = np.geomspace(self.alpha, self.alpha_max, self.max_steps).tolist()
        with task.timed("unlearn"):
            history, ending = escalate(
                task.live, change, alphas, task.monitor(), progress=task.progress
            )
        return task.result(history, ending, chosen={"alpha": history[-1]["strength"]})


def inverse(fisher: Tensor, *, in_head: bool) -> Tensor:
    """The variance of the noise for alpha = 1, of the shape of a parameter's F.

    >>> inverse(torch.tensor([[1e-2, 1e-9]]), in_head=False).round()
    tensor([[550., 550.]])
    """
    variance = (1 / (fisher + FLOOR)).clamp(max=HEAD_CAP if in_head else CAP)
    if variance.ndim > 1:
        variance = variance.mean(dim=1, keepdim=True).expand_as(variance)
    return BOOST * variance if in_head or variance.ndim == 1 else variance


def fisher_diagonal(
    parameters: Mapping[str, Tensor],
    network: Classifier,
    images: Tensor,
    classes: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """F_i = 1/n sum_x sum_y p(y|x) (d log p(y|x) / d psi_i)^2, one backward pass for each term.

    Args:
        parameters: named tensors of ``network``.
        network: images to logits, in eval mode.
        images: (n, 3, h, w), n >= 1.
        classes: y runs over so many of the most probable classes of each x.
        progress: called with (images done, images in all).
    """
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for index in range(len(images)):
        log_p = network(images[index : index + 1]).log_softmax(1)[0]
        for term in log_p.topk(min(classes, len(log_p))).values:
            gradients = torch.autograd.grad(
                term, list(parameters.values()), retain_graph=True, allow_unused=True
            )
            for accumulated, gradient in zip(total.values(), gradients, strict=True):
                if gradient is not None:
                    accumulated += term.detach().exp() * gradient.square()
        if progress is not None:
            progress(index + 1, len(images))
    return {name: value / len(images) for name, value in total.items()}
