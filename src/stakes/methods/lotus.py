"""LoTUS: distil from a teacher that is smoothed on the forget set, and sharp elsewhere."""

from dataclasses import dataclass, replace
from math import ceil, exp
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from stakes.data.augment import flip_and_crop
from stakes.data.images import Images, batches
from stakes.data.retain import Subset
from stakes.errors import InputError
from stakes.methods.base import hyper
from stakes.methods.retaining import RetainTraining, union_batches
from stakes.methods.task import Task, Unlearned
from stakes.models.classifier import Classifier
from stakes.rows import Outcome
from stakes.training.checkpoint import State
from stakes.training.loop import FORGOTTEN, complete
from stakes.training.monitor import Check, Monitor
from stakes.training.schedule import Decision, Schedule

HOTTEST = 700.0  # logarithm of a temperature: what is above it has the same, even, targets
ENOUGH = -0.01  # no epoch begins this far below the accuracy on unseen data


@dataclass(frozen=True, kw_only=True)
class LoTUS(RetainTraining):
    """``L = -mean_x t(x) . log softmax(h(g(x)))`` over forget and retained images, shuffled.

    Spartalis et al., CVPR 2025. The target t(x) is a Gumbel softmax of the original network's
    logits: one-hot on retained images; on forget images at the temperature
    ``exp(alpha (Acc(live, D_f) - Acc(original, D_v)))``, taken anew in every epoch, from
    accuracies rounded to a hundredth. It ends before an epoch in which D_f is a hundredth or more
    below D_v. Three tenths of the retained data are trained on.

    D_v is data that the original has never seen. There is none, since test data is used for scoring
    only: the retained images that are not trained on replace it. The original was trained on those
    too, so its accuracy there is too high and the targets of D_f too sharp, and less is forgotten
    than by the authors; ``unseen_accuracy`` gives the true number where it is known, such as from
    the network's publication.

    The aim is that D_f looks like unseen data, not that it is misclassified: a network that
    generalises still recognises most of its images at the end.

    Public code takes alpha 32 for a whole class and, for a ViT, 3 epochs at 1e-6 in batches of 32.

    Differences from the authors' code: D_v, as described; accuracy on D_f is that of the images
    uncropped; to forget a whole class, theirs takes 0 for the accuracy on D_v.
    """

    title: ClassVar[str] = "LoTUS"

    epochs: int = hyper(10, "most passes over the data", "public code", low=1)
    retain_share: float = hyper(
        0.3, "share of the retained data trained on", "public code", above=0, high=1
    )
    retain_batch: int = hyper(128, "images of both sets together per step", "public code", low=1)
    lr: float = hyper(1e-4, "learning rate of AdamW", "public code", above=0, high=100)
    weight_decay: float = hyper(5e-4, "weight decay of AdamW", "public code")
    alpha: float = hyper(
        2.0,
        "how strongly the temperature follows the excess accuracy on the forget set",
        "public code; 8 for a ResNet on CIFAR-10, 32 for a class",
    )
    unseen_accuracy: float = hyper(
        0.0,
        "accuracy on unseen data, percent; 0: measured on the retained images not trained on",
        high=100,
    )
    augment: bool = hyper(True, "augment: random crops, padded by an eighth", "public code")

    def unlearn(self, task: Task) -> Unlearned:
        """Distil; the temperature follows the accuracy on the forget set, epoch by epoch."""
        retained, known = self._trained_on(task)
        truth = task.forget.labels
        batches = union_batches(task, self.retain_batch, task.forget.images, retained)
        epoch = ceil((len(truth) + len(retained)) / self.retain_batch)
        smoothing = Smoothing(task.monitor(), task.live, known)
        task.checkpoint.keep(smoothing)

        def terms(step: int) -> dict[str, Tensor]:
            if (step - 1) % epoch == 0:
                smoothing.temperature = exp(min(self.alpha * smoothing.excess(), HOTTEST))
            images, places = next(batches)
            if self.augment:
                images = flip_and_crop(
                    images, torch.arange(len(images)), task.generator, flip=False
                )
            with torch.no_grad():
                teacher = task.original(images)
            smooth = gumbel_softmax(teacher, smoothing.temperature, task.generator)
            sharp = gumbel_softmax(teacher, 0.0, task.generator)
            forget = places < len(truth)
            target = torch.where(forget[:, None], smooth, sharp)
            losses = F.cross_entropy(task.live(images), target, reduction="none") / len(images)
            return {"smoothing": losses[forget].sum(), "retention": losses[~forget].sum()}

        optimizer = torch.optim.AdamW(
            task.trainable().values(), lr=self.lr, weight_decay=self.weight_decay
        )
        steps = 0 if smoothing.excess() <= ENOUGH else self.budget(self.epochs * epoch)
        task.live.train(self.batch_norm == "train")
        schedule = UntilUnseen(optimizer, smoothing, epoch)
        result = task.descend(terms, optimizer, steps, check_every=epoch, schedule=schedule)
        return self._ended(result)

    def _ended(self, result: Unlearned) -> Unlearned:
        if result.outcome is Outcome.DIVERGED:
            return result
        steps, left = len(result.history) - 1, result.history[-1]["forget_accuracy"]
        ending = complete(f"{steps} steps done", left) if left else FORGOTTEN
        return replace(result, ending=ending)

    def _trained_on(self, task: Task) -> tuple[Images, float]:
        """The retained data to train on, and the accuracy of the original on unseen data."""
        count = len(task.retain)
        cut = max(1, int(self.retain_share * count))
        retained = Subset(task.retain, range(cut))
        if self.unseen_accuracy:
            return retained, round(self.unseen_accuracy / 100, 2)
        if cut == count:
            raise InputError(
                "LoTUS needs retained images that it does not train on, or unseen_accuracy: "
                "give more of them, or set it"
            )
        unseen = Subset(task.retain, range(cut, count))
        return retained, round(accuracy(task.original, unseen), 2)


class Smoothing(State):
    """The temperature of the forget images' targets in this epoch, and what it follows."""

    saved = ("temperature",)

    def __init__(self, monitor: Monitor, live: Classifier, unseen: float) -> None:
        self.temperature = 1.0
        self._monitor, self._live, self._unseen = monitor, live, unseen

    def excess(self) -> float:
        """Accuracy on the forget set now, above that of the original on unseen data."""
        known = self._monitor.check(self._live).forget_accuracy / 100
        return round(known, 2) - self._unseen


class UntilUnseen(Schedule):
    """Ends after an epoch once accuracy on the forget set is below that on unseen data."""

    def __init__(self, optimizer: torch.optim.Optimizer, smoothing: Smoothing, epoch: int) -> None:
        super().__init__(optimizer)
        self._smoothing, self._epoch = smoothing, epoch

    def after(self, step: int, check: Check) -> Decision:
        """Done where the next epoch is not to begin."""
        ends = step % self._epoch == 0 and self._smoothing.excess() <= ENOUGH
        return Decision.DONE if ends else Decision.GO_ON


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
