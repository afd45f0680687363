"""SSD: selective synaptic dampening, one step without any training."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
from torch import Tensor, nn

from stakes.methods.base import hyper
from stakes.methods.retaining import RetainFields, retained_in_order
from stakes.methods.task import Task, Unlearned
from stakes.training.importance import squared_gradients
from stakes.training.loop import FORGOTTEN, complete


@dataclass(frozen=True, kw_only=True)
class SSD(RetainFields):
    """``theta_i <- min(lambda F_D / F_f, 1) theta_i`` wherever ``F_f > alpha F_D``.

    Foster et al., AAAI 2024. F is the mean over batches of the squared gradient of the
    cross-entropy with the true labels: F_f of the forget set, F_D of the whole training set, the
    forget set's batches among it. The paper calls it the diagonal of the Fisher information,
    which it is with ``importance_batch=1``; its constants belong to the batches of its code.

    There is a single step and no loop; the stop reason gives the share still recognised. BatchNorm
    statistics never move. A batch of few forget images has a larger mean gradient than a full one,
    so that F_f may exceed F_D in weights that are not theirs alone; with squares of single images,
    F_f is small beside F_D where they are recognised with certainty.

    Differences from the authors' code: the last batch of the retained data is not filled up with
    forget images.
    """

    title: ClassVar[str] = "SSD"

    importance_batch: int = hyper(
        128, "images whose mean gradient is squared; 1: the Fisher information", "public code",
        low=1,
    )  # fmt: skip
    alpha: float = hyper(
        10.0, "alpha, a weight is dampened where F_f exceeds this multiple of F_D", "public code"
    )
    dampening: float = hyper(
        1.0, "lambda, strength of the dampening; larger values dampen less", "public code"
    )

    def unlearn(self, task: Task) -> Unlearned:
        """Take both importances, then damp."""
        parameters = task.trainable()
        history = [{"step": 0.0} | task.monitor().check(task.live).row()]
        with task.timed("importance"):
            forget, whole = self._importances(task)
        with task.timed("unlearn"):
            damped = dampen(parameters, forget, whole, self.alpha, self.dampening)
            history.append({"step": 1.0} | task.monitor().check(task.live).row())
        left = history[-1]["forget_accuracy"]
        done = complete("the weights are damped", left)
        return task.result(
            history, done if left else FORGOTTEN, chosen={"damped_percent": 100 * damped}
        )

    def _importances(self, task: Task) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """F_f and F_D; of a sample of the retained data, F_D is what all of it would give."""
        size = self.importance_batch
        parameters, images, labels = task.trainable(), task.forget.images, task.forget.labels
        forget = squared_gradients(
            parameters, task.live, zip(images.split(size), labels.split(size), strict=True)
        )
        others = squared_gradients(
            parameters, task.live, retained_in_order(task, size, "importance")
        )
        mine = ceil(len(labels) / size)
        theirs = ceil(max(task.training_size - len(labels), 1) / size)
        whole = {
            name: (mine * forget[name] + theirs * others[name]) / (mine + theirs) for name in forget
        }
        return forget, whole


@torch.no_grad()
def dampen(
    parameters: Mapping[str, nn.Parameter],
    forget: Mapping[str, Tensor],
    whole: Mapping[str, Tensor],
    alpha: float,
    dampening: float,
) -> float:
    """Damp the weights that matter more to the forget set than to the whole.

    Args:
        parameters: changed in place.
        forget: F_f by the name of the parameter.
        whole: F_D.
        alpha: a weight is chosen where F_f > alpha F_D.
        dampening: lambda; a chosen weight is multiplied by min(lambda F_D / F_f, 1).

    Returns:
        The share of the weights that was chosen.
    """
    chosen = {name: forget[name] > alpha * whole[name] for name in parameters}
    for name, parameter in parameters.items():
        factor = (dampening * whole[name] / forget[name]).clamp(max=1)
        parameter.copy_(torch.where(chosen[name], parameter * factor, parameter))
    hits = sum(int(mask.sum()) for mask in chosen.values())
    return hits / sum(p.numel() for p in parameters.values())
