"""AMUN: fit the network to the nearest adversarial examples of the forget images."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from stakes.methods.base import ForgetSGD, hyper
from stakes.methods.task import Task, Unlearned
from stakes.models.classifier import Classifier
from stakes.training.schedule import Schedule
from stakes.training.targets import second_choices


@dataclass(frozen=True, kw_only=True)
class AMUN(ForgetSGD):
    """``L = CE(h(g(x_a)), y_a)``, x_a the nearest image that the original takes for another class.

    "AMUN: Adversarial Machine UNlearning" (Ebrahimpour-Boroojeny et al., ICML 2025) with the
    adversarial examples alone: ``advonly`` without retained data in the authors' code, whose
    ``amun`` would also fit the forget images to their own classes. y_a is the class that the
    original gives x_a. x_a is searched by L2-PGD in a ball that doubles until it is found.

    Differences from that code: an image without an adversarial example is itself fitted to
    the original's second choice; training stops once every forget image is misclassified.
    """

    title: ClassVar[str] = "AMUN (adversarial examples only)"

    lr: float = hyper(
        0.01, "learning rate of SGD in the first pass", "public code", above=0, high=100
    )
    decay: float = hyper(0.1, "factor on the learning rate after each pass", "public code", high=1)
    weight_decay: float = hyper(5e-4, "weight decay of SGD", "public code")
    epochs: int = hyper(
        10, "most passes over the forget set; 0: as many as max_steps allows", "public code"
    )
    eps: float = hyper(
        0.04, "first radius searched, L2 distance of [0, 1] pixels", "public code", above=0
    )
    pgd_iterations: int = hyper(
        50, "PGD steps for each radius, each of a tenth of it", "public code", low=1
    )

    def unlearn(self, task: Task) -> Unlearned:
        """Attack, then fit what was found."""
        images, labels = task.forget.images, task.forget.labels
        with task.timed("probes"):
            parts = zip(images.split(256), labels.split(256), strict=True)
            found = [
                nearest_adversarial(task.original, x, y, self.eps, self.pgd_iterations)
                for x, y in parts
            ]
        attacked, targets = (torch.cat(column) for column in zip(*found, strict=True))
        batches = task.batches(len(targets), self.forget_batch)
        optimizer = torch.optim.SGD(
            task.trainable().values(),
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
        each = -(-len(targets) // self.forget_batch)
        schedule = Schedule(
            optimizer, size=lambda step: self.lr * self.decay ** ((step - 1) // each)
        )

        def terms(step: int) -> dict[str, Tensor]:
            batch = next(batches)
            return {"adversarial": F.cross_entropy(task.live(attacked[batch]), targets[batch])}

        task.live.train(self.batch_norm == "train")
        return task.descend(
            terms,
            optimizer,
            self.budget(len(targets)),
            prescribed=self.is_prescribed(len(targets)),
            schedule=schedule,
        )


def nearest_adversarial(
    network: Classifier, images: Tensor, labels: Tensor, eps: float, iterations: int
) -> tuple[Tensor, Tensor]:
    """Images (n, 3, h, w) near the given ones with another class, and that class (n,).

    Untargeted L2-PGD: each iteration moves an image by a tenth of the radius along the unit
    gradient of its cross-entropy, then back into the ball and into [0, 1], until its class
    changes. The radius doubles where ``iterations`` were not enough. An image whose class changes
    nowhere stays as it is, and its class is the best other one.

    Args:
        network: images in [0, 1] to logits, in eval mode.
        images: where the attack starts.
        labels: (n,) classes to be left; an image of another predicted class stays as it is.
        eps: radius of the first ball.
        iterations: moves a ball.
    """
    result = images.clone()
    answers = torch.empty_like(labels)
    left = torch.arange(len(labels), device=labels.device)
    largest = images[0].numel() ** 0.5  # beyond it, a ball holds every image there is
    while True:
        for _ in range(iterations):
            x = result[left].requires_grad_()
            logits = network(x)
            truth = labels[left]
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, truth, reduction="sum"), x)
            same = logits.argmax(1) == truth
            # Of an image whose class has changed: that class.
            answers[left] = second_choices(logits.detach(), truth)
            left, gradient = left[same], gradient[same]
            if not len(left):
                return result, answers
            length = gradient.flatten(1).norm(dim=1).clamp_min(1e-10).reshape(-1, 1, 1, 1)
            offset = result[left] + eps / 10 * gradient / length - images[left]
            distance = offset.flatten(1).norm(dim=1).clamp_min(1e-12).reshape(-1, 1, 1, 1)
            result[left] = (images[left] + offset * (eps / distance).clamp_max(1)).clamp(0, 1)
        eps *= 2
        if eps > 2 * largest:
            result[left] = images[left]
            with torch.no_grad():
                answers[left] = second_choices(network(images[left]), labels[left])
            return result, answers
