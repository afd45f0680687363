"""MU-Mis: bring down how strongly the true class answers to changes of the forget images."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stakes.methods.base import Method, hyper
from stakes.methods.task import Task, Unlearned
from stakes.rows import Outcome
from stakes.training.loop import Ending
from stakes.training.monitor import Check
from stakes.training.schedule import Decision, Schedule
from stakes.training.targets import wrong_labels


@dataclass(frozen=True, kw_only=True)
class MUMis(Method):
    """``L = E ||grad_x f_y(x_f)||^2 - ||grad_x f_c(x_f)||^2``, f the logits, c a wrong class.

    "Remaining-data-free Machine Unlearning by Suppressing Sample Contribution" (Cheng et al., ICLR
    2026, equation 3): training makes the logit of an image's class more sensitive to the image than
    the others; unlearning closes this gap. c is drawn afresh for each image at each step. In the
    paper the sensitivity to c first falls; the run ends once it has recovered (Algorithm 1). Of a
    few images, another draw of c alone can raise it by a tenth, and a run can end after two steps.
    The loss does not require misclassification, and has no lower bound.

    Written from the paper; its code (poppopbean0903/MU-Mis) has not been compared. Differences from
    the paper: training also stops once every forget image is misclassified; the paper tunes the
    learning rate and the share ``recovery`` for each task, ours were chosen here. Gradients
    are those of images in [0, 1]; BatchNorm stays in eval mode, so that an image's gradient does
    not depend on the others.
    """

    title: ClassVar[str] = "MU-Mis"

    lr: float = hyper(1e-5, "learning rate of gradient descent", above=0, high=100)
    recovery: float = hyper(
        1.0,
        "the run ends once the norm of the second gradient exceeds its minimum so far and this "
        "share of its initial value",
        "paper: accuracy is best there",
    )
    forget_batch: int = hyper(256, "forget images per step; the paper: all of them", low=1)
    batch_norm: Literal["eval", "train"] = hyper("eval", "BatchNorm mode during unlearning")
    max_steps: int = hyper(1000, "step budget", low=1)

    def unlearn(self, task: Task) -> Unlearned:
        """Close the gap until the other classes are as sensitive as they were."""
        classes = task.original.num_classes
        batches = task.batches(len(task.forget), self.forget_batch)
        optimizer = torch.optim.SGD(task.trainable().values(), lr=self.lr)
        recovery = Recovery(optimizer, self.recovery)

        def terms(step: int) -> dict[str, Tensor]:
            batch = next(batches)
            images, labels = task.forget.images[batch].clone(), task.forget.labels[batch]
            others = wrong_labels(labels, classes, task.generator)
            logits = task.live(images.requires_grad_())
            other = sensitivity(logits, others, images)
            recovery.note(float(other.detach()) ** 0.5)
            return {"sensitivity": sensitivity(logits, labels, images), "other_class": -other}

        task.live.train(self.batch_norm == "train")
        result = task.descend(terms, optimizer, self.max_steps, schedule=recovery)
        if recovery.reached and result.history[-1]["forget_accuracy"] > 0:
            reason = "recovered: other classes are as sensitive to the images as asked"
            return replace(result, ending=Ending(Outcome.COMPLETE, reason))
        return result


class Recovery(Schedule):
    """Ends a run once a value that is noted at each step has recovered."""

    saved: ClassVar[tuple[str, ...]] = (*Schedule.saved, "_first", "_lowest", "reached")

    def __init__(self, optimizer: torch.optim.Optimizer, share: float) -> None:
        super().__init__(optimizer)
        self._share, self._first, self._lowest = share, math.nan, math.inf
        self.reached = False

    def note(self, value: float) -> None:
        """Say what the value is before this step."""
        if math.isnan(self._first):
            self._first = value
        self.reached = value > max(self._lowest, self._share * self._first)
        self._lowest = min(self._lowest, value)

    def after(self, step: int, check: Check) -> Decision:
        """Done once the value has come back, or everything is forgotten."""
        return Decision.DONE if self.reached else super().after(step, check)


def sensitivity(logits: Tensor, classes: Tensor, images: Tensor) -> Tensor:
    """The mean of ``||grad_x f_c(x)||^2`` over images (n, 3, h, w), one of the classes (n,) each.

    It can be differentiated again.

    Args:
        logits: (n, c) of the images, none of which depends on another image.
        classes: (n,).
        images: what the logits were made from, with gradients.
    """
    picked = logits.gather(1, classes[:, None]).sum()
    (gradient,) = torch.autograd.grad(picked, images, create_graph=True)
    return gradient.flatten(1).square().sum(1).mean()
