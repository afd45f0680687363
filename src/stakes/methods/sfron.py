"""SFRon: a large step away from the forget set on salient weights, then several of repair."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from stakes.methods.base import hyper
from stakes.methods.retaining import (
    RetainSGD,
    half_cosine,
    retained_batches,
    retained_in_order,
)
from stakes.methods.task import Task, Unlearned
from stakes.training.importance import squared_gradients
from stakes.training.losses import retention_ce
from stakes.training.schedule import Schedule

SMALLEST = 1e-15  # added to what is divided by


@dataclass(frozen=True, kw_only=True)
class SFRon(RetainSGD):
    """A step of ``L = -alpha sum_i w_i CE(x_i, y_i)`` on D_f, then five of ``CE(x_r, y_r)``.

    Huang et al., "Unified Gradient-Based Machine Unlearning with Remain Geometry Enhancement",
    NeurIPS 2024. ``w_i`` follows ``CE_i^-lambda`` and sums to 1 over the batch, so that images that
    are still recognised count most. The gradient of a forgetting step is masked to the weights with
    ``F_f >= gamma F_r``, F the mean squared gradient of batches in the original network, and
    clipped in norm. One SGD makes all steps; its momentum and weight decay move masked weights too.
    alpha and the learning rate fall along half a cosine. All iterations are done.

    Differences from the authors' code: the mask is taken from the images as they are, where
    theirs crops and mirrors them; no moving average of the weights, which its settings for
    classifiers switch off.
    """

    title: ClassVar[str] = "SFRon"

    iterations: int = hyper(1500, "steps on retained data", "public code, CIFAR-10", low=1)
    forget_every: int = hyper(
        5, "steps on retained data for each step on forget images", "public code", low=1
    )
    retain_batch: int = hyper(128, "retained images per step", "public code", low=1)
    forget_batch: int = hyper(128, "forget images per step", "public code", low=1)
    alpha: float = hyper(25.0, "initial weight of a forgetting step", "public code, CIFAR-10")
    adaptivity: float = hyper(
        0.5, "lambda, how strongly forgotten images are weighted down", "public code"
    )
    threshold: float = hyper(1.0, "gamma, threshold of the mask on weights", "public code")
    max_norm: float = hyper(
        7.0, "largest norm of a forgetting step's gradient; it is clipped", "public code"
    )

    def unlearn(self, task: Task) -> Unlearned:
        """Take the mask, then forget and repair in turns."""
        with task.timed("importance"):
            masks = self._masks(task)
        truth = task.forget.labels
        forget = task.batches(len(truth), self.forget_batch)
        retain = retained_batches(task, self.retain_batch)

        def terms(step: int) -> dict[str, Tensor]:
            if self._forgets(step):
                batch = next(forget)
                logits = task.live(self.shown(task, task.forget.images[batch]))
                loss = adaptive_ce(logits, truth[batch], self.adaptivity)
                return {"deletion": -self.alpha * self._decay(step) * loss}
            images, labels = next(retain)
            return {"retention": retention_ce(task.live(self.shown(task, images)), labels)}

        optimizer = self.sgd(task)
        steps = self.iterations + ceil(self.iterations / self.forget_every)
        return self.run_to_budget(
            task,
            terms,
            optimizer,
            steps,
            schedule=Schedule(optimizer, size=lambda step: self.lr * self._decay(step)),
            before_step=partial(self._mask_forgetting, task.trainable(), masks),
        )

    def _forgets(self, step: int) -> bool:
        """Whether a step, counted from 1, is one on forget images."""
        return (step - 1) % (self.forget_every + 1) == 0

    def _decay(self, step: int) -> float:
        """What is left of alpha and of the learning rate: both follow the iterations."""
        blocks, place = divmod(step - 1, self.forget_every + 1)
        iteration = blocks * self.forget_every + max(place - 1, 0)
        return half_cosine(iteration + 1, self.iterations)

    def _masks(self, task: Task) -> dict[str, Tensor]:
        parameters, size = task.trainable(), self.forget_batch
        forget = zip(task.forget.images.split(size), task.forget.labels.split(size), strict=True)
        mine = squared_gradients(parameters, task.live, forget)
        others = squared_gradients(
            parameters, task.live, retained_in_order(task, self.retain_batch, "importance")
        )
        return {
            name: (mine[name] + SMALLEST) / (others[name] + SMALLEST) >= self.threshold
            for name in parameters
        }

    def _mask_forgetting(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        masks: Mapping[str, Tensor],
        step: int,
    ) -> None:
        """Mask the gradient of a forgetting step and cut off its norm."""
        if not self._forgets(step):
            return
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                parameter.grad *= masks[name]
        torch.nn.utils.clip_grad_norm_(parameters.values(), self.max_norm)


def adaptive_ce(logits: Tensor, labels: Tensor, adaptivity: float) -> Tensor:
    """``sum_i w_i CE_i`` with w_i proportional to ``CE_i^-adaptivity``, of sum 1, and fixed.

    >>> logits = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    >>> losses = F.cross_entropy(logits, torch.tensor([0, 0]), reduction="none")
    >>> bool(adaptive_ce(logits, torch.tensor([0, 0]), 0.0).isclose(losses.mean()))
    True
    """
    losses = F.cross_entropy(logits, labels, reduction="none")
    weights = 1 / (losses.detach() ** adaptivity + SMALLEST)
    return (weights / weights.sum() * losses).sum()
