"""NegMerge: away from where fine-tuning on the forget set leads, as far as its runs agree."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stakes.data.augment import jitter
from stakes.methods.base import Method, hyper
from stakes.methods.task import Task, Unlearned
from stakes.training.batches import Batches
from stakes.training.search import escalate
from stakes.training.steps import take_steps

RATES = (0.5, 1.0, 2.0)
"""Learning rates of the fine-tunings, as multiples of ``lr``."""


@dataclass(frozen=True, kw_only=True)
class NegMerge(Method):
    """``theta = theta_0 - lambda tau``, tau of several fine-tunings (Kim et al., ICML 2025).

    Each fine-tuning on the forget set gives a task vector theta_i - theta_0. tau is their mean
    where all of them have the same sign, and 0 elsewhere. lambda grows until every forget image is
    misclassified; the lambda that was taken is ``chosen``. The authors aim at what a retrained
    network forgets; misclassifying every image takes a lambda that destroys most of the network.

    There are ``repeats`` fine-tunings for each of three learning rates, on images mirrored, shifted
    and scaled at random: on unaltered images a trained network has nothing left to learn.

    The public code is for CLIP: how vectors are merged is as there. It leaves out the other
    classifiers of the paper, so all settings are ours.

    Differences from it: the fine-tunings differ in their learning rate, there in the strength of
    RandAugment (thirty of them, by AdamW with a warm-up, a cosine schedule and clipped gradients,
    the head frozen); lambda is searched on the forget set up to ``scale_max``, there in [0, 1] on
    validation data, as long as retained images keep 95 % of their accuracy; BatchNorm stays in eval
    mode, its statistics as they were.
    """

    title: ClassVar[str] = "NegMerge"

    lr: float = hyper(
        3e-3, "middle learning rate of SGD; half and twice of it are used too", above=0, high=100
    )
    momentum: float = hyper(0.9, "momentum of SGD", high=1)
    repeats: int = hyper(3, "fine-tunings per learning rate", low=1)
    tune_steps: int = hyper(20, "steps per fine-tuning", low=1)
    forget_batch: int = hyper(128, "forget images per step", low=1)
    scale: float = hyper(0.1, "first lambda tried", above=0)
    scale_max: float = hyper(100.0, "last lambda tried", above=0)
    max_steps: int = hyper(40, "lambdas tried, from scale to scale_max in equal ratios", low=1)

    def unlearn(self, task: Task) -> Unlearned:
        """Fine-tune, merge, then go the other way."""
        parameters = task.trainable()
        origin = {name: p.detach().clone() for name, p in parameters.items()}
        rates = [self.lr * rate for rate in RATES for _ in range(self.repeats)]
        vectors = []
        with task.timed("unlearn"):
            for done, rate in enumerate(rates, 1):
                vectors.append(self._task_vector(task, rate))
                task.progress("fine-tuning", done, len(rates))
        merged = {name: consensus([vector[name] for vector in vectors]) for name in parameters}

        @torch.no_grad()
        def change(scale: float) -> None:
            for name, parameter in parameters.items():
                parameter.copy_(origin[name] - scale * merged[name])

        scales = np.geomspace(self.scale, self.scale_max, self.max_steps).tolist()
        with task.timed("unlearn"):
            history, ending = escalate(
                task.live, change, scales, task.monitor(), progress=task.progress
            )
        return task.result(history, ending, chosen={"lambda": history[-1]["strength"]})

    def _task_vector(self, task: Task, rate: float) -> dict[str, Tensor]:
        """What fine-tuning on the forget set adds to each trainable parameter."""
        tuned, origin = task.live.copy(), task.trainable()
        moved = {n: p for n, p in tuned.named_parameters() if p.requires_grad}
        batches = Batches(len(task.forget), self.forget_batch, task.generator)

        def terms(step: int) -> dict[str, Tensor]:
            batch = next(batches)
            images = jitter(task.forget.images, batch, task.generator)
            return {"fit": F.cross_entropy(tuned(images), task.forget.labels[batch])}

        optimizer = torch.optim.SGD(moved.values(), lr=rate, momentum=self.momentum)
        for _ in take_steps(terms, optimizer, range(1, self.tune_steps + 1)):
            pass
        return {name: (p - origin[name]).detach() for name, p in moved.items()}


def consensus(vectors: Sequence[Tensor]) -> Tensor:
    """The mean of tensors of one shape where all have the same sign, 0 elsewhere.

    >>> consensus([torch.tensor([1.0, 1.0]), torch.tensor([3.0, -9.0])])
    tensor([2., 0.])
    """
    stacked = torch.stack(list(vectors))
    agreed = stacked.sign().sum(0).abs() == len(vectors)
    return torch.where(agreed, stacked.mean(0), 0.0)
