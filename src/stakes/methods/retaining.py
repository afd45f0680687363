"""What the methods that use retained data share: their fields, their batches, their length."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stakes.data.images import Images
from stakes.methods.base import Method, hyper
from stakes.methods.task import Task, Unlearned
from stakes.training.loop import FORGOTTEN
from stakes.training.losses import retention_ce
from stakes.training.targets import wrong_labels

LOOK_EVERY = 10


@dataclass(frozen=True, kw_only=True)
class RetainFields(Method):
    """How much retained data a method sees: a sample that a CPU can go over several times."""

    needs_retain: ClassVar[bool] = True

    retain_samples: int = hyper(2000, "retained images used, drawn at random; 0 for all")


@dataclass(frozen=True, kw_only=True)
class RetainTraining(RetainFields):
    """The hyper-parameters of training on retained data.

    Public code of these methods trains for some epochs, whatever is forgotten on the way. With
    the defaults an epoch is 16 steps, and 160 steps are ten epochs.
    """

    retain_batch: int = hyper(128, "retained images a step", low=1)
    batch_norm: Literal["eval", "train"] = hyper(
        "train", "mode of BatchNorm while unlearning", "public code"
    )
    max_steps: int = hyper(
        160, "steps; methods that do not stop once all is forgotten do all", low=1
    )

    def run_to_budget(
        self,
        task: Task,
        terms: Callable[[int], Mapping[str, Tensor]],
        optimizer: torch.optim.Optimizer,
    ) -> Unlearned:
        """Minimise the terms for all of ``max_steps``, forgotten or not, and wrap up.

        The network is looked at every ``LOOK_EVERY`` steps. The reason for stopping is that all
        is forgotten only where it is so at the end.
        """
        task.live.train(self.batch_norm == "train")
        result = task.descend(
            terms, optimizer, self.max_steps, check_every=LOOK_EVERY, run_to_budget=True
        )
        if result.stop_reason.startswith("diverged"):
            return result
        left = result.history[-1]["forget_accuracy"]
        done = f"complete: all {self.max_steps} steps done, {left:.0f} % of the images still known"
        return replace(result, stop_reason=done if left else FORGOTTEN)


@dataclass(frozen=True, kw_only=True)
class RetainSGD(RetainTraining):
    """The same, with the hyper-parameters of SGD."""

    lr: float = hyper(1e-2, "step size of SGD", "public code of SalUn")
    momentum: float = hyper(0.9, "momentum of SGD", "public code of SalUn")
    weight_decay: float = hyper(5e-4, "weight decay of SGD", "public code of SalUn")

    def sgd(self, task: Task) -> torch.optim.SGD:
        """The optimiser of the live network's parameters that are not frozen."""
        return torch.optim.SGD(
            task.trainable().values(),
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )


def set_step_sizes(optimizer: torch.optim.Optimizer, size: Callable[[int], float]) -> None:
    """Let every step of the optimiser, counted from 1, take the step size that ``size`` says."""

    def before_step(*_: object) -> None:
        for group in optimizer.param_groups:
            group["step"] = group.get("step", 0) + 1  # part of the optimiser's state
            group["lr"] = size(group["step"])

    # Before each step, since the loop sets its own pace there.
    optimizer.register_step_pre_hook(before_step)


def retained_batches(
    task: Task, batch_size: int, images: Images | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches (images, labels) of the retained data, epoch after epoch, without end."""
    images = task.retain if images is None else images
    device, indices = task.live.device, task.batches(len(images), batch_size)
    return ((images.load(i).to(device), images.labels[i].to(device)) for i in indices)


def logits_of_both(task: Task, forget: Tensor, retain: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of the forget images at indices (a,) and of retained images (b, 3, h, w).

    One pass for both, so that BatchNorm in train mode sees their mixture.
    """
    logits = task.live(torch.cat([task.forget.images[forget], retain]))
    return logits[: len(forget)], logits[len(forget) :]


def relabelling_terms(
    task: Task, retain_batch: int, forget_batch: int, retention_weight: float
) -> Callable[[int], dict[str, Tensor]]:
    """CE of forget images to wrong classes, and of retained images to their own, batch by batch.

    A wrong class is drawn once for each forget image, uniformly among the others.
    """
    targets = wrong_labels(task.forget.labels, task.original.num_classes, task.generator)
    forget = task.batches(len(targets), forget_batch)
    retain = retained_batches(task, retain_batch)

    def terms(step: int) -> dict[str, Tensor]:
        batch, (images, labels) = next(forget), next(retain)
        gone, kept = logits_of_both(task, batch, images)
        return {
            "relabelling": retention_ce(gone, targets[batch]),
            "retention": retention_weight * retention_ce(kept, labels),
        }

    return terms
