"""What the methods share that unlearn beside fixed adversarial probes: attack, batches, terms."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from stakes.methods.base import Method, hyper
from stakes.methods.task import Task
from stakes.models.classifier import Classifier
from stakes.training.losses import deletion_ce, retention_ce
from stakes.training.pgd import Probes, Start, pgd
from stakes.training.targets import wrong_labels

PASSES = 101  # over the probes (NegGrad: the forget images) in the code of Stake the Points
PASSES_OF_L2UL = "code of Stake the Points; L2UL's on CIFAR-10: 1,001"
PGD_STEP = 0.1  # in public code


@dataclass(frozen=True, kw_only=True)
class PGDFields(Method):
    """The hyper-parameters of fixed adversarial probes, for the methods that use them.

    A step takes a batch of probes and beside it a batch of forget images, both in a fixed order
    and cycled.
    """

    forget_batch: int = hyper(
        128,
        "forget images per step, in addition to the probes",
        "code of Stake the Points; L2UL's: 32",
        low=1,
    )
    probes_per_image: int = hyper(
        20,
        "N_adv, PGD probes made from each forget image",
        "public code, CIFAR-10; CIFAR-100: 200",
        low=1,
    )
    eps: float = hyper(4.0, "radius of the PGD ball, L2 distance of [0, 1] pixels", "L2UL's code")
    pgd_iterations: int = hyper(100, "PGD steps of .1", "public code", low=1)
    probe_margin: float = hyper(
        0.0,
        "lead of the target class, in logits, at which the attack stops; 0: it takes all its steps",
    )

    def attack(self, task: Task) -> Probes:
        """Probes from the network as it was before unlearning (see :func:`attacked`)."""
        return attacked(
            task,
            start="noise",
            together=self.forget_batch,
            per_image=self.probes_per_image,
            eps=self.eps,
            iterations=self.pgd_iterations,
            margin=self.probe_margin or math.inf,
        )


def attacked(
    task: Task,
    *,
    per_image: int,
    eps: float,
    iterations: int,
    margin: float,
    start: Start = "ball",
    together: int | None = None,
) -> Probes:
    """PGD probes of the original network, their targets at random.

    One of every forget image, then another of every one, ``per_image`` times over, so that a
    batch of them in order is of many images; where so many are taken ``together``, all probes of
    the first batch of forget images come before those of the next.
    """
    indices = torch.arange(len(task.forget))
    batches = indices.split(together or len(indices))
    order = torch.cat([batch.repeat(per_image) for batch in batches])
    targets = wrong_labels(task.forget.labels[order], task.original.num_classes, task.generator)
    with task.timed("probes"):
        return pgd(
            task.original,
            task.forget.images[order],
            targets,
            eps=eps,
            step=PGD_STEP,
            iterations=iterations,
            margin=margin,
            start=start,
            generator=task.generator,
            progress=lambda done, total: task.progress("probes", done, total),
        )


@dataclass(frozen=True, kw_only=True)
class AdversarialFields(PGDFields):
    """The hyper-parameters that Adv and L2UL share, as the code of "Stake the Points" sets them."""

    lr: float = hyper(1e-3, "learning rate of SGD", "public code of L2UL", above=0, high=100)
    momentum: float = hyper(0.9, "momentum of SGD", "public code of L2UL", high=1)
    weight_decay: float = hyper(1e-4, "weight decay of SGD", "public code of L2UL")
    probe_batch: int = hyper(128, "probes per step", "code of Stake the Points; L2UL's: 256", low=1)
    batch_norm: Literal["eval", "train"] = hyper(
        "train", "BatchNorm mode during unlearning; in eval mode the ascent is unbounded"
    )
    max_steps: int = hyper(0, "step budget; 0: 101 passes over the probes", PASSES_OF_L2UL)

    def optimizer(self, task: Task) -> torch.optim.Optimizer:
        """SGD over all that is not frozen."""
        return torch.optim.SGD(
            task.trainable().values(),
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )


class Pair(NamedTuple):
    """What a step sees: a batch of probes, and beside it a batch of forget images."""

    probes: Tensor
    targets: Tensor  #: the classes the probes were pushed to
    rows: Tensor  #: places of the probes among all of them
    images: Tensor
    labels: Tensor
    share: float  #: of the forget images in both batches together


class Pairs:
    """Batches of fixed probes, and beside each one a batch of forget images, both cycled in order.

    Args:
        task: whose forget images they are.
        probes: images made from these.
        probe_batch: probes a step; the last batch of a pass is the rest.
        forget_batch: forget images a step.

    Attributes:
        steps_per_pass: steps in which every probe is taken once.
    """

    def __init__(self, task: Task, probes: Probes, probe_batch: int, forget_batch: int) -> None:
        self._forget, self._probes = task.forget, probes
        self._rows = task.batches(len(probes), probe_batch, shuffle=False)
        self._images = task.batches(len(task.forget), forget_batch, shuffle=False)
        self.steps_per_pass = self._rows.per_epoch

    def __next__(self) -> Pair:
        rows, picked = next(self._rows), next(self._images)
        return Pair(
            self._probes.images[rows],
            self._probes.labels[rows],
            rows,
            self._forget.images[picked],
            self._forget.labels[picked],
            len(picked) / (len(picked) + len(rows)),
        )


def adversarial_terms(network: Classifier, pair: Pair) -> dict[str, Tensor]:
    """-CE of the forget images and CE of the probes, each weighted by its share of the step.

    Each batch passes through the network on its own, the probes first: BatchNorm normalises
    them apart, and its running statistics see the forget images last.
    """
    retention = retention_ce(network(pair.probes), pair.targets)
    deletion = deletion_ce(network(pair.images), pair.labels)
    return {"deletion": pair.share * deletion, "retention": (1 - pair.share) * retention}
