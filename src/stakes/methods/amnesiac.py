"""Amnesiac unlearning: train on with wrong labels for the forget set and the retained data."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
from torch import Tensor

from stakes.methods.base import hyper
from stakes.methods.retaining import RetainTraining, union_batches
from stakes.methods.task import Task, Unlearned
from stakes.training.losses import retention_ce
from stakes.training.targets import wrong_labels


@dataclass(frozen=True, kw_only=True)
class Amnesiac(RetainTraining):
    """``L = mean CE(x, y)`` over the whole training set, wrong labels y' for the forget images.

    Graves et al., "Amnesiac Machine Learning", AAAI 2021: what that paper calls unlearning, and
    later ones amnesiac (amnesiac unlearning there reverses recorded training updates, which are not
    available here). A wrong class is drawn once for each forget image. An epoch shuffles both sets
    into one, so that forget images are as rare in a step as any others; all epochs are run. Without
    retained data it is ``random_label``.

    Later public code runs 3 epochs at 1e-4, in batches of 256 (Chundawat et al., AAAI 2023) or 128
    (Foster et al., AAAI 2024).

    Differences from the authors' code: Adam begins with fresh moments, where theirs continues with
    those of the training.
    """

    title: ClassVar[str] = "Amnesiac"

    epochs: int = hyper(10, "passes over the training set", "public code", low=1)
    retain_batch: int = hyper(64, "images of both sets together per step", "public code", low=1)
    lr: float = hyper(1e-3, "learning rate of Adam", "public code", above=0, high=100)

    def unlearn(self, task: Task) -> Unlearned:
        """Relabel once, then train on."""
        wrong = wrong_labels(task.forget.labels, task.original.num_classes, task.generator)
        labels = torch.cat([wrong, task.retain.labels.to(wrong.device)])
        batches = union_batches(task, self.retain_batch, task.forget.images)

        def terms(step: int) -> dict[str, Tensor]:
            images, places = next(batches)
            return {"relabelling": retention_ce(task.live(images), labels[places])}

        optimizer = torch.optim.Adam(task.trainable().values(), lr=self.lr)
        steps = self.epochs * ceil(len(labels) / self.retain_batch)
        return self.run_to_budget(task, terms, optimizer, steps)
