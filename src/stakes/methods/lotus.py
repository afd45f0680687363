"""LoTUS: distil from a teacher that is smoothed on the forget set, and sharp elsewhere."""

from dataclasses import dataclass
from math import ceil, exp
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from stakes.data.images import Images, batches
from stakes.data.retain import Subset
from stakes.errors import InputError
from stakes.methods.base import hyper
from stakes.methods.retaining import RetainTraining, logits_of_both, retained_batches
from stakes.methods.task import Task, Unlearned
from stakes.models.classifier import Classifier
from stakes.training.checkpoint import State


@dataclass(frozen=True, kw_only=True)
class LoTUS(RetainTraining):
    """``L = -mean_x t(x) . log softmax(h(g(x)))`` over forget and retained images.

    Spartalis et al., CVPR 2025. The target t(x) is a Gumbel softmax of the original network's
    logits: one-hot on retained images; on forget images at the temperature
    ``exp(alpha (Acc(live, D_f) - Acc(original, D_v)))``, taken anew in every epoch.

    D_v is data that the original has never seen, and there is none: test data only scores. A
    share of the retained data, which is then not trained on, stands in for it. The original was
    trained on that too, so its accuracy there is too high and the targets of D_f too sharp, and
    less is forgotten than by the authors; ``unseen_accuracy`` gives the true number where it is
    known, such as from the network's publication.

    The aim is that D_f looks like data never seen, not that it is misclassified, so all steps
    are done, and most images of a network that generalises are still recognised at the end.

    Differences from the authors' code: theirs ends an epoch after the accuracy on D_f has fallen
    a point below that on D_v; every step takes a batch of each set, where theirs shuffles both.
    """

    title: ClassVar[str] = "LoTUS"

    lr: float = hyper(1e-4, "step size of AdamW", "public code")
    weight_decay: float = hyper(5e-4, "weight decay of AdamW", "public code")
    alpha: float = hyper(2.0, "how fast the temperature follows", "public code; 8 for CIFAR-10")
    held_out: float = hyper(
        0.2, "share of the retained data that stands in for unseen data", above=0, high=0.99
    )
    unseen_accuracy: float = hyper(
        0.0, "accuracy of the network on data it has never seen, percent; 0: that on held_out"
    )
    forget_batch: int = hyper(128, "forget images a step", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unseen_accuracy > 100:
            raise InputError(f"unseen_accuracy={self.unseen_accuracy}: it is at most 100 percent")

    def unlearn(self, task: Task) -> Unlearned:
        """Distil; the temperature follows the accuracy on the forget set, epoch by epoch."""
        kept, unseen = self._shares(task)
        target_accuracy = self.unseen_accuracy / 100 or accuracy(task.original, unseen)
        forget = task.batches(len(task.forget), self.forget_batch)
        retain = retained_batches(task, self.retain_batch, kept)
        epoch = ceil(len(kept) / self.retain_batch)
        monitor, smoothing = task.monitor(), Smoothing()
        task.checkpoint.keep(smoothing)

        def terms(step: int) -> dict[str, Tensor]:
            if step % epoch == 1 or epoch == 1:
                known = monitor.check(task.live).forget_accuracy / 100
                smoothing.temperature = exp(self.alpha * (known - target_accuracy))
            batch, (images, _) = next(forget), next(retain)
            with torch.no_grad():
                soft = task.original(task.forget.images[batch])
                sharp = task.original(images)
            gone, left = logits_of_both(task, batch, images)
            count = len(gone) + len(left)
            smoothed = gumbel_softmax(soft, smoothing.temperature, task.generator)
            return {
                "smoothing": len(gone) / count * F.cross_entropy(gone, smoothed),
                "retention": len(left)
                / count
                * F.cross_entropy(left, gumbel_softmax(sharp, 0.0, task.generator)),
            }

        optimizer = torch.optim.AdamW(
            task.trainable().values(), lr=self.lr, weight_decay=self.weight_decay
        )
        return self.run_to_budget(task, terms, optimizer)

    def _shares(self, task: Task) -> tuple[Images, Images]:
        """The retained data to train on, and that which is held out."""
        count = len(task.retain)
        cut = min(count - 1, ceil(self.held_out * count))
        if cut < 1:
            raise InputError("LoTUS holds out a share of the retained data: give it two or more")
        return Subset(task.retain, range(cut, count)), Subset(task.retain, range(cut))


class Smoothing(State):
    """The temperature of the forget images' targets in this epoch."""

    saved = ("temperature",)

    def __init__(self) -> None:
        self.temperature = 1.0


@torch.no_grad()
def accuracy(network: Classifier, images: Images) -> float:
    """Share in [0, 1] of the images that the network gives their class."""
    hits = 0
    for shown, labels in batches(images):
        hits += int((network(shown.to(network.device)).argmax(1).cpu() == labels).sum())
    return hits / len(images)


def gumbel_softmax(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Softmax of (logits + Gumbel noise) / temperature, rows (n, c); one-hot at temperature 0.

    Jang et al., ICLR 2017: the class of a row is distributed as softmax(logits).
    """
    uniform = torch.rand(logits.shape, generator=generator).clamp(1e-20, 1 - 1e-7)
    noisy = logits - (-uniform.log()).log().to(logits)
    if temperature == 0:
        return F.one_hot(noisy.argmax(1), noisy.shape[1]).to(noisy)
    return (noisy / temperature).softmax(1)
