"""SCRUB: away from the teacher on the forget set and back to it on the retained data, in turns."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stakes.errors import InputError
from stakes.methods.base import hyper, variant
from stakes.methods.retaining import RetainTraining, in_first_pass, retained_batches
from stakes.methods.task import Task, Unlearned
from stakes.training.losses import retention_ce, retention_kl
from stakes.training.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class SCRUB(RetainTraining):
    """A max pass ``L = -KL(x_f)``, then a min pass ``L = gamma CE(x_r, y_r) + alpha KL(x_r)``.

    Kurmanji et al., NeurIPS 2023. KL is ``T^2 KL(original || student)`` of the softmaxes at the
    temperature T. An epoch goes over the forget set once, as long as it is one of the first
    ``max_epochs``, and then over the retained data once, with one optimiser for both. All epochs
    are done, so that the min passes at the end repair, and they may bring back what was forgotten.
    The defaults are those of its public code for a whole class of CIFAR-10. The preset
    ``few_images`` has those for 100 images of one of its classes, and ``small_scale`` those for
    training sets of a few hundred images.

    Few forget images make a single batch, hence one max step per epoch: by default, only two steps
    lead away from the teacher, and little is forgotten. Smaller batches make more of them: 21 for
    the 100 images of ``few_images``, beside five passes over the retained data in batches of 32.

    Differences from the authors' code: none in a step; SCRUB+R, which rewinds to an earlier epoch,
    is not part of it.
    """

    title: ClassVar[str] = "SCRUB"

    epochs: int = hyper(3, "passes over the retained data", "public code, large scale", low=1)
    max_epochs: int = hyper(2, "epochs that begin with a max pass (msteps)", "public code", low=1)
    retain_batch: int = hyper(256, "retained images per step", "public code", low=1)
    forget_batch: int = hyper(512, "forget images per step of a max pass", "public code", low=1)
    optimizer: Literal["sgd", "adam"] = hyper("sgd", "optimiser", "public code, large scale")
    lr: float = hyper(5e-4, "learning rate", "public code", above=0, high=100)
    momentum: float = hyper(0.9, "momentum of SGD", "public code")
    weight_decay: float = hyper(5e-4, "weight decay", "public code, large scale")
    decay_after: str = hyper(
        "3 5 9", "epochs after which the learning rate falls to a tenth", "public code"
    )
    temperature: float = hyper(4.0, "T of the KL", "public code, large scale", above=0, high=100)
    kl_weight: float = hyper(1e-3, "alpha, weight of the KL on the retained data", "public code")
    retention_weight: float = hyper(
        0.99, "gamma, weight of the CE on the retained data", "public code"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(word.isdigit() for word in self.decay_after.split()):
            raise InputError(f"decay_after={self.decay_after!r}: give epochs, such as '3 5 9'")

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
            if in_first_pass(step, up, down, self.max_epochs):
                return {"deletion": -divergence(task.forget.images[next(forget)])[1]}
            shown, labels = next(retain)
            logits, kl = divergence(shown)
            return {
                "retention": self.retention_weight * retention_ce(logits, labels),
                "distillation": self.kl_weight * kl,
            }

        optimizer = self._optimizer(task)
        schedule = Schedule(
            optimizer,
            size=lambda step: self.step_size(epoch_of(step, up, down, self.max_epochs)),
        )
        steps = self.epochs * down + min(self.epochs, self.max_epochs) * up
        return self.run_to_budget(task, terms, optimizer, steps, schedule=schedule)

    def step_size(self, epoch: int) -> float:
        """The learning rate in an epoch, counted from 1."""
        passed = sum(epoch > int(word) for word in self.decay_after.split())
        return self.lr * 0.1**passed

    def _optimizer(self, task: Task) -> torch.optim.Optimizer:
        parameters = task.trainable().values()
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, lr=self.lr, weight_decay=self.weight_decay)
        return torch.optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )


def epoch_of(step: int, up: int, down: int, max_epochs: int) -> int:
    """The epoch of a step, both counted from 1.

    A max pass, with which the first ``max_epochs`` begin, takes ``up`` steps, and a min pass
    ``down``.

    >>> [epoch_of(step, up=1, down=2, max_epochs=1) for step in range(1, 8)]
    [1, 1, 1, 2, 2, 3, 3]
    """
    both = max_epochs * (up + down)
    if step <= both:
        return ceil(step / (up + down))
    return max_epochs + ceil((step - both) / down)


SCRUBSmallScale = variant(
    SCRUB, "SCRUB (small_scale)",
    epochs=10, max_epochs=3, retain_batch=32, forget_batch=64, optimizer="adam", weight_decay=0.1,
    decay_after="5 8 9", temperature=2.0, kl_weight=0.5, retention_weight=1.0,
)  # fmt: skip
"""The public code's settings for small training sets."""

SCRUBFewImages = variant(
    SCRUB, "SCRUB (few_images)",
    epochs=5, max_epochs=3, retain_batch=32, forget_batch=16, kl_weight=0.5, retention_weight=1.0,
)  # fmt: skip
"""The public code's settings for 100 images of CIFAR-10 (``MIA_experiments.ipynb``)."""
