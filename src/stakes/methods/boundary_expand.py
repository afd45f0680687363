"""Boundary expand: move the forget images into a shadow class that is then taken away."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stakes.methods.base import ForgetSGD, hyper
from stakes.methods.task import Task, Unlearned


@dataclass(frozen=True, kw_only=True)
class BoundaryExpand(ForgetSGD):
    """``L = CE([h(g(x_f)), s(g(x_f))], c)``, s a shadow logit (Chen et al., CVPR 2023, Sec. 3.4).

    A class that no image has is added, and all forget images are fitted to it. The shadow logit is
    a layer of its own beside the head: the network that is measured at every step and returned has
    only its own c classes. Once the shadow logit leads by far, nothing is left that pushes the true
    class below the others: runs can end with the budget.

    Differences from the authors' code: BatchNorm is in train mode from the first step on, where
    theirs takes one in eval mode; training stops once the network without the shadow logit
    misclassifies every forget image.
    """

    title: ClassVar[str] = "Boundary expand"

    lr: float = hyper(1e-5, "learning rate of SGD", "public code", above=0, high=100)
    forget_batch: int = hyper(64, "forget images per step", "public code", low=1)
    epochs: int = hyper(
        10, "most passes over the forget set; 0: as many as max_steps allows", "public code"
    )

    def unlearn(self, task: Task) -> Unlearned:
        """Fit to the shadow class."""
        classes = task.live.num_classes
        shadow = shadow_logit(task.live.head, task.generator)

        def loss(batch: Tensor) -> dict[str, Tensor]:
            features, logits = task.live.both(task.forget.images[batch])
            widened = torch.cat([logits, shadow(features)], dim=1)
            target = torch.full_like(task.forget.labels[batch], classes)
            return {"shadow": F.cross_entropy(widened, target)}

        return self.fit(task, loss, *shadow.parameters())


def shadow_logit(head: nn.Linear, generator: torch.Generator) -> nn.Linear:
    """One more row for a head (d to c): (d to 1), Xavier-normal for d to c + 1, its bias zero."""
    kind = {"device": head.weight.device, "dtype": head.weight.dtype}
    # skip_init: the usual initialisation would draw from the global generator.
    shadow: nn.Linear = nn.utils.skip_init(nn.Linear, head.in_features, 1, **kind)
    std = math.sqrt(2 / (head.in_features + head.out_features + 1))
    noise = torch.randn(1, head.in_features, generator=generator)
    with torch.no_grad():
        shadow.weight.copy_(std * noise)
        shadow.bias.zero_()
    return shadow
