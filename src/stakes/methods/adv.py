"""Adv: gradient ascent on the forget set, descent on adversarial probes made from it."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from stakes.methods.base import hyper
from stakes.methods.probing import PGDFields, adversarial_terms
from stakes.methods.task import Task, Unlearned


@dataclass(frozen=True, kw_only=True)
class Adv(PGDFields):
    """``L = -CE(x_f, y_f) + CE(x_s, y_s)`` with PGD probes x_s (Cha et al., AAAI 2024).

    Differences from the authors' code: probes have a margin and never the true class as target.
    BatchNorm is in train mode as theirs: its statistics then follow the probes, which costs
    accuracy on real images, but in eval mode nothing bounds -CE and the network ends at chance.
    """

    title: ClassVar[str] = "Adv"

    lr: float = hyper(1e-3, "step size of SGD", "public code of L2UL")
    momentum: float = hyper(0.9, "momentum of SGD", "public code of L2UL")
    batch_size: int = hyper(128, "images a step, of the union of forget images and probes", low=1)
    batch_norm: Literal["eval", "train"] = hyper(
        "train", "mode of BatchNorm while unlearning; in eval the ascent has no bound"
    )
    max_steps: int = hyper(1000, "step budget", low=1)

    def unlearn(self, task: Task) -> Unlearned:
        """Ascend on the images, descend on the probes."""
        probes = self.attack(task)
        terms = adversarial_terms(task, probes, self.batch_size)
        parameters = task.trainable().values()
        optimizer = torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum)
        task.live.train(self.batch_norm == "train")
        return task.descend(lambda step: terms(), optimizer, self.max_steps)
