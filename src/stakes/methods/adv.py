"""Adv: gradient ascent on the forget set, descent on adversarial probes made from it."""

from dataclasses import dataclass
from typing import ClassVar

from stakes.methods.adversarial import PASSES, AdversarialFields, Pairs, adversarial_terms
from stakes.methods.task import Task, Unlearned


@dataclass(frozen=True, kw_only=True)
class Adv(AdversarialFields):
    """``L = f/(f+s) -CE(x_f, y_f) + s/(f+s) CE(x_s, y_s)`` with PGD probes x_s.

    Cha et al., "Learning to Unlearn", AAAI 2024; f and s count the forget images and probes of a
    step. It ends with the first step after which every forget image is misclassified. BatchNorm
    is in train mode as in the authors' code: its statistics follow probes and forget images, which
    costs accuracy on real images; in eval mode, -CE is unbounded and the network ends at chance.

    Batches and length are those of the code of "Stake the Points", which runs Adv beside its own
    method. Differences from it: a probe's target is never the true class, which theirs can be, and
    every other class is as likely. Learning rate and eps are those of the line for baselines in its
    script, which are L2UL's too; for CIFAR-10 this line stops with an error (it leaves the number
    of classes at 100), and the other line runs the baselines with lr .01 and eps 2. The authors'
    own code takes 256 probes beside 32 images, and on CIFAR-10 up to 1,001 passes.
    """

    title: ClassVar[str] = "Adv"
    divisible: ClassVar[bool] = True

    def unlearn(self, task: Task) -> Unlearned:
        """Ascend on the images, descend on the probes."""
        pairs = Pairs(task, self.attack(task), self.probe_batch, self.forget_batch)
        task.live.train(self.batch_norm == "train")
        budget = self.max_steps or PASSES * pairs.steps_per_pass
        return task.descend(
            lambda step: adversarial_terms(task.live, next(pairs)),
            self.optimizer(task),
            budget,
            prescribed=not self.max_steps,
        )
