"""Bad teacher: distil a random network on the forget set and the original on the retained data."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from stakes.data.retain import Subset
from stakes.methods.base import hyper
from stakes.methods.retaining import RetainTraining, union_batches
from stakes.methods.task import Task, Unlearned
from stakes.training.fresh import fresh


@dataclass(frozen=True, kw_only=True)
class BadTeacher(RetainTraining):
    """``L = mean over images and classes of t (log t - log s)``; s, t softmax(z / T).

    Chundawat et al., "Can Bad Teaching Induce Forgetting?", AAAI 2023. The teacher t of a forget
    image is a network of the same architecture with fresh weights, which knows nothing; that of a
    retained image is the original. Both are in eval mode. Three tenths of the retained data and the
    forget set are shuffled together and passed once; all steps are run.

    One epoch with few forget images among thousands of retained ones hardly forgets them: in the
    example of the public code they are a class of 500, eight in each step.

    Differences from the authors' code: fresh weights are PyTorch's own initialisation of each
    layer, by which a ResNet-20 finds all classes about equally likely; by theirs, that of
    torchvision's ResNet, it gives one class about half of the probability or more.

    Raises:
        InputError: a layer that cannot be reinitialised; frozen parameters stay.
    """

    title: ClassVar[str] = "Bad teacher"

    epochs: int = hyper(1, "passes over the data", "public code", low=1)
    retain_share: float = hyper(
        0.3, "share of the retained data trained on", "public code", above=0, high=1
    )
    retain_batch: int = hyper(256, "images of both sets together per step", "public code", low=1)
    lr: float = hyper(1e-4, "learning rate of Adam", "public code", above=0, high=100)
    temperature: float = hyper(1.0, "T of both softmaxes", "public code", above=0)

    def unlearn(self, task: Task) -> Unlearned:
        """Make the bad teacher, then distil from both."""
        bad = task.live.copy().eval()
        fresh(bad, task.generator)
        retained = Subset(task.retain, range(max(1, int(self.retain_share * len(task.retain)))))
        k = len(task.forget)
        batches = union_batches(task, self.retain_batch, task.forget.images, retained)

        def terms(step: int) -> dict[str, Tensor]:
            images, places = next(batches)
            forget = places < k
            with torch.no_grad():
                teacher = torch.where(forget[:, None], bad(images), task.original(images))
            answers = (task.live(images) / self.temperature).log_softmax(1)
            target = (teacher / self.temperature).log_softmax(1)
            divergence = F.kl_div(answers, target, log_target=True, reduction="none")
            return {
                "bad_teacher": divergence[forget].sum() / divergence.numel(),
                "retention": divergence[~forget].sum() / divergence.numel(),
            }

        optimizer = torch.optim.Adam(task.trainable().values(), lr=self.lr)
        steps = self.epochs * ceil((k + len(retained)) / self.retain_batch)
        return self.run_to_budget(task, terms, optimizer, steps)
