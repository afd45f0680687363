"""Random label: fit the forget images to wrong classes."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from stakes.data.augment import flip_and_crop
from stakes.methods.base import ForgetSGD, hyper
from stakes.methods.task import Task, Unlearned
from stakes.training.targets import wrong_labels


@dataclass(frozen=True, kw_only=True)
class RandomLabel(ForgetSGD):
    """``L = CE(h(g(x_f)), y')``, y' a wrong class drawn once for each image.

    The relabelling of Amnesiac unlearning (Graves et al., AAAI 2021) on the forget set alone, as
    public code of DELETE (Zhou et al., CVPR 2025) runs it.

    Differences from that code: it draws y' from all classes, so that some images keep their true
    one; training stops once every forget image is misclassified.
    """

    title: ClassVar[str] = "Random label"
    divisible: ClassVar[bool] = True

    lr: float = hyper(
        1e-4,
        "learning rate of SGD",
        "public code of DELETE, ResNet-18 on CIFAR-10 enlarged to 224",
        above=0,
        high=100,
    )
    epochs: int = hyper(
        20, "most passes over the forget set; 0: as many as max_steps allows", "the same code"
    )
    augment: bool = hyper(
        True, "augment: random crops, padded by an eighth, and random mirroring", "the same code"
    )

    def unlearn(self, task: Task) -> Unlearned:
        """Relabel once, then fit."""
        images = task.forget.images
        targets = wrong_labels(task.forget.labels, task.original.num_classes, task.generator)

        def loss(batch: Tensor) -> dict[str, Tensor]:
            shown = images[batch]
            if self.augment:
                shown = flip_and_crop(images, batch, task.generator)
            return {"relabelling": F.cross_entropy(task.live(shown), targets[batch])}

        return self.fit(task, loss)
