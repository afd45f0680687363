"""DELETE: distil the original's answers with the true class left out."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stakes.data.augment import flip_and_crop
from stakes.methods.base import ForgetSGD, hyper
from stakes.methods.task import Task, Unlearned
from stakes.training.losses import retention_kl


@dataclass(frozen=True, kw_only=True)
class Delete(ForgetSGD):
    """``L = KL(softmax(mask(z_0, y_f)) || softmax(h(g(x_f))))`` (Zhou et al., CVPR 2025).

    z_0 are the original network's logits for the image as it is shown; mask sets the true class's
    to -1e10, so the target keeps the proportions of all other classes and gives the true one
    nothing.

    Differences from the authors' code: training stops once every forget image is misclassified.
    """

    title: ClassVar[str] = "DELETE"
    divisible: ClassVar[bool] = True

    lr: float = hyper(
        1e-4,
        "learning rate of SGD",
        "public code, ResNet-18 on CIFAR-10 enlarged to 224",
        above=0,
        high=100,
    )
    epochs: int = hyper(
        20, "most passes over the forget set; 0: as many as max_steps allows", "public code"
    )
    augment: bool = hyper(
        True, "augment: random crops, padded by an eighth, and random mirroring", "public code"
    )

    def unlearn(self, task: Task) -> Unlearned:
        """Distil until everything is forgotten."""
        images, labels = task.forget.images, task.forget.labels

        def loss(batch: Tensor) -> dict[str, Tensor]:
            shown = images[batch]
            if self.augment:
                shown = flip_and_crop(images, batch, task.generator)
            with torch.no_grad():
                teacher = without_true_class(task.original(shown), labels[batch])
            return {"distillation": retention_kl(task.live(shown), teacher, temperature=1.0)}

        return self.fit(task, loss)


def without_true_class(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits (n, c) with that of the label (n,) so low that its probability is 0.

    >>> z = torch.tensor([[9.0, 1.0, 1.0]])
    >>> without_true_class(z, torch.tensor([0])).softmax(1)
    tensor([[0.0000, 0.5000, 0.5000]])
    """
    # Not -inf, whose product with the probability 0 would make the divergence NaN.
    return logits.scatter(1, labels[:, None], -1e10)
