"""Oracle: descent on the retained data, ascent on the forget set."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stakes.methods.base import hyper
from stakes.methods.retaining import CHECK_EVERY, RetainTraining, retained_batches
from stakes.methods.task import Task, Unlearned
from stakes.training.losses import retention_ce
from stakes.training.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Oracle(RetainTraining):
    """``L = CE(x_r, y_r) - lambda log(1 - p(y_f | x_f))``, with retained data others lack.

    The reference model of "Stake the Points" (Sec. 4.1): positive gradients from D_r, negative ones
    from D_f. It is not a network trained without the forget set (that is ``retrain``). The paper
    calls the model retrained without saying from what or how; here it starts from the given
    network.

    The negative gradient is rescaled, image by image. That of -CE in the logits is ``e_y - p``,
    whose length follows 1 - p_y: almost zero for an image recognised with certainty, as most
    training images are, and largest for one long forgotten, so that the push never ends and
    destroys the network. That of -log(1 - p_y) has the same direction, and its length follows p_y.

    Once everything is forgotten it continues for as many steps, ``settle_least`` at the fewest,
    while the learning rate falls to nothing, so that what is retained recovers; it ends if
    everything is forgotten then too. Every step takes a batch of each, so a forget image is met
    more often than a retained one.

    Differences from the authors' code: the Oracle is not part of it. Everything but the two
    directions is our choice: the rescaling, their weights, a sample of the retained data, no
    augmentation, Adam, BatchNorm in eval mode, when to end.
    """

    title: ClassVar[str] = "Oracle"

    retain_samples: int = hyper(10_000, "retained images used, drawn at random; 0: all")
    batch_norm: Literal["eval", "train"] = hyper("eval", "BatchNorm mode during unlearning")
    lr: float = hyper(1e-4, "learning rate of Adam", above=0, high=100)
    deletion_weight: float = hyper(0.1, "lambda, weight of the forget images")
    forget_batch: int = hyper(128, "forget images per step", low=1)
    settle_least: int = hyper(100, "fewest steps once everything is forgotten", low=1)
    max_steps: int = hyper(500, "step budget", low=1)

    def unlearn(self, task: Task) -> Unlearned:
        """Descend and ascend until everything is forgotten, then settle."""
        truth = task.forget.labels
        forget = task.batches(len(truth), self.forget_batch)
        retain = retained_batches(task, self.retain_batch)

        def terms(step: int) -> dict[str, Tensor]:
            batch, (images, labels) = next(forget), next(retain)
            forget_logits, retain_logits = logits_of_both(task, batch, images)
            return {
                "deletion": self.deletion_weight * unlikelihood(forget_logits, truth[batch]),
                "retention": retention_ce(retain_logits, labels),
            }

        optimizer = torch.optim.Adam(task.trainable().values(), lr=self.lr)
        task.live.train(self.batch_norm == "train")
        schedule = Schedule(optimizer, settle=1.0, settle_least=self.settle_least)
        return task.descend(
            terms, optimizer, self.max_steps, check_every=CHECK_EVERY, schedule=schedule
        )


def logits_of_both(task: Task, forget: Tensor, retain: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of the forget images at indices (a,) and of retained images (b, 3, h, w).

    One pass for both, so that BatchNorm in train mode sees their mixture.
    """
    logits = task.live(torch.cat([task.forget.images[forget], retain]))
    return logits[: len(forget)], logits[len(forget) :]


def unlikelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """-log(1 - p_y), mean over rows (k, c) (Welleck et al., ICLR 2020).

    Its gradient in the logits is that of -CE times p_y / (1 - p_y).

    >>> round(float(unlikelihood(torch.zeros(1, 2), torch.tensor([0]))), 4)
    0.6931
    """
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return (logits.logsumexp(1) - others.logsumexp(1)).mean()
