"""SSD: selective synaptic dampening, one step without any training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from stakes.data.images import batches
from stakes.methods.base import hyper
from stakes.methods.retaining import RetainFields
from stakes.methods.task import Task, Unlearned
from stakes.training.importance import empirical_fisher
from stakes.training.loop import FORGOTTEN


@dataclass(frozen=True, kw_only=True)
class SSD(RetainFields):
    """``theta_i <- min(lambda F_D / F_f, 1) theta_i`` wherever ``F_f > alpha F_D``.

    Foster et al., AAAI 2024. F is the diagonal of the empirical Fisher information of the
    cross-entropy with the true labels: F_f of the forget set, F_D of the whole training set. F_D
    is put together from the sample of retained data and the forget set, each with its share of
    the training set.

    There is one step and no loop: what the constants give is what comes out, and the stop reason
    says how much still is known. BatchNorm statistics never move.

    Of a few images drawn at random it forgets next to nothing, with the very constants that its
    authors take there: the gradient of an image known with certainty is nearly nothing, so that
    F_f is small beside F_D, which the images make up that the network is unsure of. It suits
    classes, whose images need weights that others use little.

    Differences from the authors' code: squares of the gradients of single samples, where theirs
    squares the gradient of a batch; F_D from a sample.
    """

    title: ClassVar[str] = "SSD"

    retain_samples: int = hyper(1000, "retained images that F_D is taken from; 0 for all")
    alpha: float = hyper(
        10.0, "how much larger F_f is than F_D where a weight is damped", "public code"
    )
    dampening: float = hyper(1.0, "lambda, how little a chosen weight is damped", "public code")

    def unlearn(self, task: Task) -> Unlearned:
        """Take both importances, then damp."""
        parameters = task.trainable()
        history = [{"step": 0.0} | task.monitor().check(task.live).row()]
        with task.timed("importance"):
            forget = empirical_fisher(parameters, task.live, task.forget.images, task.forget.labels)
            retain = self._retained_importance(task)
        share = len(task.forget) / task.training_size
        whole = {name: (1 - share) * retain[name] + share * forget[name] for name in forget}
        with task.timed("unlearn"):
            damped = dampen(parameters, forget, whole, self.alpha, self.dampening)
            history.append({"step": 1.0} | task.monitor().check(task.live).row())
        left = history[-1]["forget_accuracy"]
        done = f"complete: the weights are damped, {left:.0f} % of the images still known"
        return task.result(
            history, done if left else FORGOTTEN, chosen={"damped_percent": 100 * damped}
        )

    def _retained_importance(self, task: Task) -> dict[str, Tensor]:
        parameters = task.trainable()
        total = {name: torch.zeros_like(p) for name, p in parameters.items()}
        done, count = 0, len(task.retain)
        for images, labels in batches(task.retain):
            device = task.live.device
            part = empirical_fisher(parameters, task.live, images.to(device), labels.to(device))
            for name, value in part.items():
                total[name] += len(labels) / count * value
            done += len(labels)
            task.progress("importance", done, count)
        return total


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
