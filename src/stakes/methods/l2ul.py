"""L2UL: Adv with the weights that matter little to the forget set held in place."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stakes.methods.base import hyper
from stakes.methods.probing import PGDFields, adversarial_terms
from stakes.methods.task import Task, Unlearned
from stakes.training.importance import mean_gradient_magnitude, min_max
from stakes.training.losses import quadratic


@dataclass(frozen=True, kw_only=True)
class L2UL(PGDFields):
    """``L = -CE(x_f, y_f) + CE(x_s, y_s) + lambda/2 sum (1 - I) (theta - theta_0)^2``.

    Cha et al., "Learning to Unlearn", AAAI 2024. I is the MAS importance of each weight for the
    forget set: the mean magnitude of the gradient of the logits' norm, one sample at a time,
    scaled to [0, 1] within each tensor.

    Differences from the authors' code: those of ``Adv``; a constant importance tensor becomes
    zeros where theirs gives NaN.
    """

    title: ClassVar[str] = "L2UL"

    lr: float = hyper(1e-3, "step size of SGD", "public code of L2UL")
    momentum: float = hyper(0.9, "momentum of SGD", "public code of L2UL")
    reg_weight: float = hyper(1.0, "lambda, weight of the regulariser", "public code of L2UL")
    batch_size: int = hyper(128, "images a step, of the union of forget images and probes", low=1)
    batch_norm: Literal["eval", "train"] = hyper(
        "train", "mode of BatchNorm while unlearning; in eval the ascent has no bound"
    )
    max_steps: int = hyper(1000, "step budget", low=1)

    def unlearn(self, task: Task) -> Unlearned:
        """As Adv, with the weights that matter little held in place."""
        probes = self.attack(task)
        parameters = task.trainable()
        origin = {name: p.detach().clone() for name, p in parameters.items()}
        with task.timed("importance"):
            importance = mean_gradient_magnitude(
                parameters,
                lambda image: task.live(image).norm(),
                task.forget.images,
                lambda done, total: task.progress("importance", done, total),
            )
        freedom = {name: 1 - value for name, value in min_max(importance).items()}
        adversarial = adversarial_terms(task, probes, self.batch_size)

        def terms(step: int) -> dict[str, Tensor]:
            held = self.reg_weight * quadratic(parameters, origin, freedom)
            return adversarial() | {"regularisation": held}

        optimizer = torch.optim.SGD(parameters.values(), lr=self.lr, momentum=self.momentum)
        task.live.train(self.batch_norm == "train")
        return task.descend(terms, optimizer, self.max_steps)
