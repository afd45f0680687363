"""Retrain: the same architecture trained from fresh weights, without the forget set."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from torch import Tensor

from stakes.methods.base import hyper
from stakes.methods.retaining import RetainSGD, half_cosine, retained_batches
from stakes.methods.task import Task, Unlearned
from stakes.training.fresh import fresh
from stakes.training.losses import retention_ce
from stakes.training.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Retrain(RetainSGD):
    """``L = CE(x_r, y_r)`` from fresh weights: exact unlearning, the reference of the field.

    The network never sees the forget set, and yet recognises most of it if it generalises: to be
    misclassified is more than never to have been seen. All steps are done whatever is recognised.
    It takes all retained data and as many epochs as training did: with fewer (``retain_samples``,
    ``epochs``) it is a worse network, not a worse method.

    Fresh weights are PyTorch's own initialisation of each layer; frozen parameters stay. The step
    size falls along a half cosine to nothing. How the network was trained is not known: the recipe
    is a short one that suits residual networks on small images.

    Raises:
        InputError: a layer that cannot be reinitialised.
    """

    title: ClassVar[str] = "Retrain"

    epochs: int = hyper(30, "passes over the data", "a compromise for a CPU", low=1)
    retain_batch: int = hyper(128, "retained images per step", "He et al. 2016", low=1)
    lr: float = hyper(0.1, "learning rate of SGD at the start", "He et al. 2016", above=0, high=100)

    def unlearn(self, task: Task) -> Unlearned:
        """Make the weights afresh, then train on the retained data."""
        fresh(task.live, task.generator)
        retain = retained_batches(task, self.retain_batch)
        optimizer = self.sgd(task)
        steps = self.budget(self.epochs * ceil(len(task.retain) / self.retain_batch))
        schedule = Schedule(optimizer, size=lambda step: self.lr * half_cosine(step, steps))

        def terms(step: int) -> dict[str, Tensor]:
            images, labels = next(retain)
            return {"retention": retention_ce(task.live(self.shown(task, images)), labels)}

        return self.run_to_budget(task, terms, optimizer, steps, schedule=schedule)
