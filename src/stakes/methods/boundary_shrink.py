"""Boundary shrink: fit each forget image to the class across its nearest decision boundary."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from stakes.methods.base import ForgetSGD, hyper
from stakes.methods.task import Task, Unlearned
from stakes.models.classifier import Classifier
from stakes.training.targets import second_choices


@dataclass(frozen=True, kw_only=True)
class BoundaryShrink(ForgetSGD):
    """``L = CE(h(g(x_f)), y')``, y' the nearest wrong class (Chen et al., CVPR 2023, Sec. 3.3).

    y' is what the original network sees in the image after one FGSM step away from its class:
    ``y' = argmax over y != y_f of h(g(x_f + eps sign(grad_x CE(h(g(x_f)), y_f))))``, in pixels of
    8 bits.

    Differences from the authors' code: where the step does not leave the true class, theirs asks
    for the true class again, ours for the best other one; their attack undoes a normalisation
    that is not the one of their data, and so moves pixels by a quarter, ours by eps; training stops
    once every forget image is misclassified.
    """

    title: ClassVar[str] = "Boundary shrink"

    lr: float = hyper(1e-5, "learning rate of SGD", "public code", above=0, high=100)
    forget_batch: int = hyper(64, "forget images per step", "public code", low=1)
    epochs: int = hyper(
        10, "most passes over the forget set; 0: as many as max_steps allows", "public code"
    )
    eps: float = hyper(0.1, "FGSM step, largest change of a pixel in [0, 1]", "public code")

    def unlearn(self, task: Task) -> Unlearned:
        """Relabel by the attack, then fit."""
        images, labels = task.forget.images, task.forget.labels
        with task.timed("probes"):
            pairs = zip(images.split(256), labels.split(256), strict=True)
            targets = torch.cat([nearest_class(task.original, x, y, self.eps) for x, y in pairs])

        def loss(batch: Tensor) -> dict[str, Tensor]:
            return {"relabelling": F.cross_entropy(task.live(images[batch]), targets[batch])}

        return self.fit(task, loss)


def nearest_class(network: Classifier, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """The best wrong class (n,) of images (n, 3, h, w) after one FGSM step from their labels.

    Args:
        network: images in [0, 1] to logits, in eval mode.
        images: where the steps start; they are kept within [0, 1], in steps of 1/255.
        labels: (n,) true classes.
        eps: the change of every pixel.
    """
    moved = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(
        F.cross_entropy(network(moved), labels, reduction="sum"), moved
    )
    with torch.no_grad():
        stepped = (images + eps * gradient.sign()).clamp(0, 1)
        return second_choices(network((stepped * 255).round() / 255), labels)
