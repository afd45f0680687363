"""NegGrad: gradient ascent on the forget set."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from stakes.methods.adversarial import PASSES, PASSES_OF_L2UL
from stakes.methods.base import Method, ascent_terms, hyper
from stakes.methods.task import Task, Unlearned


@dataclass(frozen=True, kw_only=True)
class NegGrad(Method):
    """Ascend the cross-entropy of the forget set (Golatkar et al., CVPR 2020, as a baseline).

    ``L = -CE(h(g(x_f)), y_f)``, as in the code of "Stake the Points": batches in a fixed order,
    whole passes over the forget images, until after one of them every image is misclassified.
    Nothing retains the rest, so the network collapses.

    Differences from that code: none known; of the two lines of its script, the one for baselines
    is followed (see ``Adv``), where the other runs NegGrad with lr .01. L2UL's, the same but for
    them, has batches of 32 and on CIFAR-10 up to 1,001 passes.
    """

    title: ClassVar[str] = "NegGrad"
    divisible: ClassVar[bool] = True

    lr: float = hyper(1e-3, "learning rate of SGD", "public code of L2UL", above=0, high=100)
    momentum: float = hyper(0.9, "momentum of SGD", "public code of L2UL", high=1)
    weight_decay: float = hyper(1e-4, "weight decay of SGD", "public code of L2UL")
    forget_batch: int = hyper(
        128, "forget images per step", "code of Stake the Points; L2UL's: 32", low=1
    )
    batch_norm: Literal["eval", "train"] = hyper(
        "train", "BatchNorm mode during unlearning; in eval mode the ascent is unbounded"
    )
    max_steps: int = hyper(0, "step budget; 0: 101 passes over the forget images", PASSES_OF_L2UL)

    def unlearn(self, task: Task) -> Unlearned:
        """Ascend until everything is forgotten."""
        optimizer = torch.optim.SGD(
            task.trainable().values(),
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
        task.live.train(self.batch_norm == "train")
        steps_per_pass = -(-len(task.forget) // self.forget_batch)
        return task.descend(
            ascent_terms(task, self.forget_batch, shuffle=False),
            optimizer,
            self.max_steps or PASSES * steps_per_pass,
            prescribed=not self.max_steps,
            check_every=steps_per_pass,
        )
