"""Fine-tuning: train on with the retained data, and let the forget set be forgotten by itself."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from torch import Tensor

from stakes.methods.base import hyper
from stakes.methods.retaining import RetainSGD, retained_batches
from stakes.methods.task import Task, Unlearned
from stakes.training.losses import retention_ce


@dataclass(frozen=True, kw_only=True)
class FineTune(RetainSGD):
    """``L = CE(x_r, y_r)``: training goes on without D_f, and relies on catastrophic forgetting.

    Golatkar et al., CVPR 2020, as a baseline; settings of the public code of SalUn. The loss does
    not ask for forgetting, so all steps are run, and the stop reason gives the share still
    recognised. It forgets almost none of a few images drawn at random: a network that generalises
    recognises them from the others.
    """

    title: ClassVar[str] = "Fine-tuning"

    epochs: int = hyper(10, "passes over the data", "public code", low=1)

    def unlearn(self, task: Task) -> Unlearned:
        """Train on the retained data."""
        retain = retained_batches(task, self.retain_batch)

        def terms(step: int) -> dict[str, Tensor]:
            images, labels = next(retain)
            return {"retention": retention_ce(task.live(self.shown(task, images)), labels)}

        steps = self.epochs * ceil(len(task.retain) / self.retain_batch)
        return self.run_to_budget(task, terms, self.sgd(task), steps)
