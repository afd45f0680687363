"""Amnesiac unlearning: train on with wrong labels for the forget set and the retained data."""

from dataclasses import dataclass
from typing import ClassVar

from stakes.methods.base import hyper
from stakes.methods.retaining import RetainSGD, relabelling_terms
from stakes.methods.task import Task, Unlearned


@dataclass(frozen=True, kw_only=True)
class Amnesiac(RetainSGD):
    """``L = CE(x_f, y') + CE(x_r, y_r)``, y' a wrong class drawn once for each forget image.

    Graves et al., AAAI 2021, the variant that relabels (the other one takes back the updates of
    the training itself, which nobody has kept). All steps are done, since the retained data goes
    on repairing once all is forgotten. Without retained data it is ``random_label``.

    Differences from public code: every step takes a batch of each, where theirs shuffles both
    into one set, in which a few forget images are hardly met.
    """

    title: ClassVar[str] = "Amnesiac"

    forget_batch: int = hyper(128, "forget images a step", low=1)

    def unlearn(self, task: Task) -> Unlearned:
        """Relabel once, then train on."""
        terms = relabelling_terms(task, self.retain_batch, self.forget_batch, 1.0)
        return self.run_to_budget(task, terms, self.sgd(task))
