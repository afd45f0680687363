"""What the methods that use retained data share: their fields, their batches, their length."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from stakes.data.augment import flip_and_crop
from stakes.data.images import Images, batches
from stakes.data.transfer import to_device
from stakes.methods.base import Method, hyper
from stakes.methods.task import Task, Unlearned
from stakes.training.steps import Terms

CHECK_EVERY = 10


@dataclass(frozen=True, kw_only=True)
class RetainFields(Method):
    """How much retained data a method sees."""

    needs_retain: ClassVar[bool] = True

    retain_samples: int = hyper(0, "retained images used, drawn at random; 0: all")


@dataclass(frozen=True, kw_only=True)
class RetainTraining(RetainFields):
    """The hyper-parameters of training on retained data.

    As in their public code, these methods run all their epochs, whatever is forgotten on the way;
    ``max_steps`` only shortens this.
    """

    retain_batch: int = hyper(128, "retained images per step", low=1)
    batch_norm: Literal["eval", "train"] = hyper(
        "train", "BatchNorm mode during unlearning", "public code"
    )
    max_steps: int = hyper(0, "most steps; 0: all steps of the epochs")

    def budget(self, steps: int) -> int:
        """How many of the steps that all epochs take are done."""
        return min(steps, self.max_steps or steps)

    def run_to_budget(
        self,
        task: Task,
        terms: Terms,
        optimizer: torch.optim.Optimizer,
        steps: int,
        **more: Any,
    ) -> Unlearned:
        """Minimise the terms for all of ``steps``, forgotten or not, and wrap up.

        The network is checked every ``CHECK_EVERY`` steps. ``more`` is for
        :meth:`stakes.methods.task.Task.descend`.
        """
        task.live.train(self.batch_norm == "train")
        budget = self.budget(steps)
        return task.descend(
            terms,
            optimizer,
            budget,
            check_every=CHECK_EVERY,
            run_to_budget=True,
            prescribed=budget == steps,
            **more,
        )


@dataclass(frozen=True, kw_only=True)
class RetainSGD(RetainTraining):
    """The same by SGD, as in the public code of SalUn."""

    retain_batch: int = hyper(256, "retained images per step", "public code", low=1)
    lr: float = hyper(1e-2, "learning rate of SGD", "public code", above=0, high=100)
    momentum: float = hyper(0.9, "momentum of SGD", "public code")
    weight_decay: float = hyper(5e-4, "weight decay of SGD", "public code")
    augment: bool = hyper(
        True, "augment: random crops, padded by an eighth, and random mirroring", "public code"
    )

    def sgd(self, task: Task) -> torch.optim.SGD:
        """The optimiser of the live network's parameters that are not frozen."""
        return torch.optim.SGD(
            task.trainable().values(),
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )

    def shown(self, task: Task, images: Tensor) -> Tensor:
        """The images (n, 3, h, w) as a step sees them."""
        if not self.augment:
            return images
        return flip_and_crop(images, torch.arange(len(images)), task.generator)


def half_cosine(step: int, steps: int) -> float:
    """``(1 + cos(pi (t - 1) / n)) / 2`` for step t, from 1 to n.

    >>> [round(half_cosine(step, 3), 2) for step in (1, 2, 3)]
    [1.0, 0.75, 0.25]
    """
    return (1 + math.cos(math.pi * (step - 1) / steps)) / 2


def retained_batches(
    task: Task, batch_size: int, images: Images | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches (images, labels) of the retained data, epoch after epoch, without end."""
    images = task.retain if images is None else images
    device, indices = task.live.device, task.batches(len(images), batch_size)
    return (
        (to_device(images.load(i), device), to_device(images.labels[i], device)) for i in indices
    )


def retained_in_order(
    task: Task, batch_size: int = 256, phase: str = ""
) -> Iterator[tuple[Tensor, Tensor]]:
    """The retained data once, in its order: (images, labels); ``phase`` names the progress."""
    device, count = task.live.device, len(task.retain)
    for number, (images, labels) in enumerate(batches(task.retain, batch_size=batch_size)):
        if phase:
            task.progress(phase, number * batch_size, count)
        yield to_device(images, device), to_device(labels, device)


def union_batches(
    task: Task, batch_size: int, first: Tensor, images: Images | None = None, *, copies: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches of given images and retained ones together, epoch after epoch.

    Args:
        task: whose retained data it is.
        batch_size: images of both in a batch.
        first: (a, 3, h, w), on the network's device.
        images: the retained ones; all by default.
        copies: how many times ``first`` is met in an epoch.

    Returns:
        Pairs of images (n, 3, h, w) and their places (n,) in the union, those of ``first`` and
        its copies before the retained ones; in a batch they come first too.
    """
    images = task.retain if images is None else images
    size, device = copies * len(first), task.live.device

    def batch(places: Tensor) -> tuple[Tensor, Tensor]:
        given, retained = places[places < size], places[places >= size]
        loaded = to_device(images.load(retained - size), device)
        shown = [first[to_device(given % len(first), device)], loaded]
        return torch.cat(shown), to_device(torch.cat([given, retained]), device)

    return (batch(places) for places in task.batches(size + len(images), batch_size))


def in_first_pass(step: int, first: int, second: int, epochs: int) -> bool:
    """Whether a step, counted from 1, is of the first of the two passes of its epoch.

    Args:
        step: from 1.
        first: steps of a first pass, such as that over the forget set.
        second: steps of a second one, over the retained data.
        epochs: how many begin with a first pass; later ones have the second alone.

    >>> [in_first_pass(step, first=1, second=2, epochs=2) for step in range(1, 10)]
    [True, False, False, True, False, False, False, False, False]
    """
    epoch, place = divmod(step - 1, first + second)
    return epoch < epochs and place < first
