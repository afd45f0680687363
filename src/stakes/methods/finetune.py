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
    """``L = CE(x_r, y_r)``: what was learned from D_f fades, if it does, for want of repetition.

    Golatkar et al., CVPR 2020, as a baseline; settings of the public code of SalUn. Nothing asks
    for forgetting, so all steps are done whatever is forgotten, and the stop reason says how much
    still is known. Of a few images drawn at random it forgets next to none: a network that
    generalises knows them from the others.
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
