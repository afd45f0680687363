"""Random label: fit the forget images to wrong classes."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from stakes.methods.base import ForgetSGD, hyper
from stakes.methods.task import Task, Unlearned
from stakes.training.targets import wrong_labels


@dataclass(frozen=True, kw_only=True)
class RandomLabel(ForgetSGD):
    """``L = CE(h(g(x_f)), y')``, y' a wrong class drawn once for each image.

    The relabelling of Amnesiac unlearning (Graves et al., AAAI 2021), on the forget set alone.

    Differences from the authors' code: theirs goes on training on the retained data as well;
    public code that draws from all classes gives some images their true class again, here none.
    """

    title: ClassVar[str] = "Random label"

    lr: float = hyper(3e-4, "step size of SGD", "public code of DELETE, CIFAR-10")

    def unlearn(self, task: Task) -> Unlearned:
        """Relabel once, then fit."""
        targets = wrong_labels(task.forget.labels, task.original.num_classes, task.generator)

        def loss(batch: Tensor) -> dict[str, Tensor]:
            logits = task.live(task.forget.images[batch])
            return {"relabelling": F.cross_entropy(logits, targets[batch])}

        return self.fit(task, loss)
