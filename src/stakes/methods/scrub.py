"""SCRUB: away from the teacher on the forget set and back to it on the retained data, in turns."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
from torch import Tensor

from stakes.methods.base import hyper
from stakes.methods.retaining import RetainTraining, retained_batches
from stakes.methods.task import Task, Unlearned
from stakes.training.losses import retention_ce, retention_kl


@dataclass(frozen=True, kw_only=True)
class SCRUB(RetainTraining):
    """A max pass ``L = -KL(x_f)``, then a min pass ``L = gamma CE(x_r, y_r) + alpha KL(x_r)``.

    Kurmanji et al., NeurIPS 2023. KL is that of the student to the original network at a
    temperature. An epoch goes over the forget set once, as long as it is one of the first
    ``max_epochs``, and then over the retained data once. All steps are done, so that the min
    passes at the end repair, and they may bring back what was forgotten.

    At the start student and teacher agree and KL has no gradient at its minimum, so that little
    is forgotten where the forget set is a few batches: more max passes, or smaller batches, or a
    larger step size, are what it takes.

    Differences from the authors' code: no decay of the step size, no moving average of the
    weights, no rewinding to an earlier epoch.
    """

    title: ClassVar[str] = "SCRUB"

    lr: float = hyper(5e-4, "step size of Adam", "public code")
    weight_decay: float = hyper(5e-4, "weight decay of Adam", "public code, large scale")
    temperature: float = hyper(2.0, "T of the KL", "public code")
    kl_weight: float = hyper(0.5, "alpha, weight of the KL on the retained data", "public code")
    retention_weight: float = hyper(1.0, "gamma, weight of the CE there", "public code")
    max_epochs: int = hyper(3, "epochs with a max pass (msteps)", "public code", low=1)
    forget_batch: int = hyper(32, "forget images a step of a max pass", "public code", low=1)

    def unlearn(self, task: Task) -> Unlearned:
        """Alternate max and min passes."""
        forget = task.batches(len(task.forget), self.forget_batch)
        retain = retained_batches(task, self.retain_batch)
        up = ceil(len(task.forget) / self.forget_batch)
        down = ceil(len(task.retain) / self.retain_batch)

        def divergence(images: Tensor) -> tuple[Tensor, Tensor]:
            logits = task.live(images)
            with torch.no_grad():
                teacher = task.original(images)
            return logits, retention_kl(logits, teacher, self.temperature)

        def terms(step: int) -> dict[str, Tensor]:
            if is_max(step, up, down, self.max_epochs):
                return {"deletion": -divergence(task.forget.images[next(forget)])[1]}
            shown, labels = next(retain)
            logits, kl = divergence(shown)
            return {
                "retention": self.retention_weight * retention_ce(logits, labels),
                "distillation": self.kl_weight * kl,
            }

        optimizer = torch.optim.Adam(
            task.trainable().values(), lr=self.lr, weight_decay=self.weight_decay
        )
        return self.run_to_budget(task, terms, optimizer)


def is_max(step: int, forget_steps: int, retain_steps: int, max_epochs: int) -> bool:
    """Whether a step, counted from 1, is one of a max pass.

    >>> [is_max(step, forget_steps=1, retain_steps=2, max_epochs=2) for step in range(1, 10)]
    [True, False, False, True, False, False, False, False, False]
    """
    epoch, place = divmod(step - 1, forget_steps + retain_steps)
    return epoch < max_epochs and place < forget_steps
