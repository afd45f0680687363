"""What the methods share that hold probes in place of the absent data."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from stakes.data.augment import mixed, rotate_recolour
from stakes.data.views import perturb_pixels
from stakes.errors import InputError
from stakes.methods.base import Method, hyper
from stakes.methods.task import Task
from stakes.models.classifier import Classifier
from stakes.training.inversion import Whitening, has_statistics, inverted
from stakes.training.losses import deletion_ce, retention_ce
from stakes.training.pgd import Probes, pgd
from stakes.training.targets import wrong_labels

PASSES = 101  # over the probes (NegGrad: the forget images) in the authors' code, at most
PGD_STEP = 0.1  # in public code
PGD_MARGIN = 0.5  # logits by which the default's PGD probes lead: none stops on the boundary
INVERTED, INVERSION_STEPS = 512, 100  # images made from BatchNorm statistics, steps for them
TURNED = 0.5  # share of the mixtures made of turned images, where copies are to be forgotten too
UNEVEN, EVEN = 0.15, 0.35  # least share of the second image of a mixture


class ProbeBatch(NamedTuple):
    """Probes (n, 3, h, w), hard labels (n,); the original's features (n, d) and logits (n, c)."""

    images: Tensor
    labels: Tensor
    features: Tensor
    logits: Tensor

    def at(self, indices: Tensor) -> "ProbeBatch":
        """Those at the indices."""
        return ProbeBatch(*(column[indices.to(column.device)] for column in self))


@dataclass(frozen=True, kw_only=True)
class PGDFields(Method):
    """The hyper-parameters of fixed adversarial probes, for the methods that use them."""

    probes_per_image: int = hyper(
        20, "PGD probes made from each forget image", "paper, N_adv", low=1
    )
    eps: float = hyper(4.0, "radius of the PGD ball, L2 distance of [0, 1] pixels", "L2UL's code")
    pgd_iterations: int = hyper(100, "PGD steps of .1", "public code", low=1)
    probe_margin: float = hyper(
        0.0, "lead of the target, in logits, at which a probe is done; 0: after all its steps"
    )

    def attack(self, task: Task) -> Probes:
        """Probes from the network as it was before unlearning (see :func:`attacked`)."""
        return attacked(
            task,
            per_image=self.probes_per_image,
            eps=self.eps,
            iterations=self.pgd_iterations,
            margin=self.probe_margin or math.inf,
        )


def attacked(task: Task, *, per_image: int, eps: float, iterations: int, margin: float) -> Probes:
    """PGD probes of the original network, their targets at random.

    One of every forget image, then another of every one, ``per_image`` times over, so that a
    batch of them in order is of many images.
    """
    labels = task.forget.labels.repeat(per_image)
    targets = wrong_labels(labels, task.original.num_classes, task.generator)
    with task.timed("probes"):
        return pgd(
            task.original,
            task.forget.images.repeat(per_image, 1, 1, 1),
            targets,
            eps=eps,
            step=PGD_STEP,
            iterations=iterations,
            margin=margin,
            generator=task.generator,
            progress=lambda done, total: task.progress("probes", done, total),
        )


@dataclass(frozen=True, kw_only=True)
class ProbeFields(Method):
    """The hyper-parameters of probes of any kind, for the methods that choose between them."""

    probes: Literal["auto", "mixed", "inverted", "pgd", "both"] = hyper(
        "auto",
        "mixtures of forget images made afresh each step; mixtures of images made from the "
        "network's BatchNorm statistics; fixed PGD probes; half PGD, half mixtures; or auto: "
        "inverted where criterion is views and the network has such statistics, else mixed",
    )
    pool: int = hyper(0, "mixtures made once and drawn from again and again; 0: fresh each step")
    probe_batch: int = hyper(256, "probes a step", low=1)


class ProbeSource:
    """Where a run's probes come from, and the original's answers to them.

    Args:
        settings: the hyper-parameters of probes.
        run: whose forget images they are made from.
        passes: entered around each pass through the network (see :mod:`stakes.training.precision`).
        hold_copies: whether probes may look like copies of the forget images.

    Raises:
        InputError: inverted probes of a network that keeps no statistics.

    Attributes:
        kind: of the probes: ``mixed``, ``inverted``, ``pgd`` or ``both``.
        why: it was chosen.
        fixed: those made once, if any: the attack's, then the pool of mixtures.
    """

    def __init__(
        self,
        settings: ProbeFields,
        task: Task,
        passes: AbstractContextManager[object],
        *,
        hold_copies: bool,
    ) -> None:
        self._settings, self._task, self._passes = settings, task, passes
        self.kind, self.why = self._chosen(hold_copies)
        self._hold_copies = hold_copies
        # What is mixed, and the least share of the second image.
        self._mixed = task.forget.images, task.forget.labels, UNEVEN if hold_copies else EVEN
        if self.kind == "inverted":
            self._mixed = (*self._inverted(), UNEVEN)
        self.fixed = self._made_once()
        half = {"pgd": 0, "both": settings.probe_batch // 2}
        self._fresh = 0 if settings.pool else half.get(self.kind, settings.probe_batch)
        made = 0 if self.fixed is None else len(self.fixed.labels)
        self._indices = task.batches(made, settings.probe_batch - self._fresh)

    def draw(self) -> ProbeBatch:
        """A batch of ``probe_batch`` probes: fixed ones in turn, fresh ones, or some of each."""
        parts = [] if self.fixed is None else [self.fixed.at(next(self._indices))]
        if self._fresh:
            parts.append(self.answers(self._mixtures(self._fresh)))
        return joined(parts)

    def some(self, count: int) -> Tensor:
        """``count`` probes (n, 3, h, w), at random; fewer where fewer were made."""
        if self.fixed is None:
            return self._mixtures(count)
        chosen = torch.randperm(len(self.fixed.labels), generator=self._task.generator)
        return self.fixed.images[chosen[:count]]

    @torch.no_grad()
    def answers(self, images: Tensor, labels: Tensor | None = None) -> ProbeBatch:
        """Probes with the original's answers to them; its prediction is the label by default."""
        original = self._task.original
        with self._passes:
            features = torch.cat([original.features(batch) for batch in images.split(256)]).float()
        logits = original.head(features)
        labels = logits.argmax(1) if labels is None else labels
        return ProbeBatch(images, labels, features, logits)

    def _chosen(self, hold_copies: bool) -> tuple[str, str]:
        """The kind of probes, and why."""
        kind, network = self._settings.probes, self._task.original
        if kind == "inverted" and not has_statistics(network):
            raise InputError(
                "probes=inverted needs BatchNorm statistics, which this network has not: "
                "set probes to mixed"
            )
        if kind != "auto":
            return kind, "as given"
        if hold_copies:
            return "mixed", "the images alone are to be forgotten"
        if not has_statistics(network):
            return "mixed", "the network has no BatchNorm statistics"
        return "inverted", "copies are to be forgotten too"

    def _inverted(self) -> tuple[Tensor, Tensor]:
        """Images made from BatchNorm statistics, and the classes they were made for."""
        settings, task = self._settings, self._task
        images, labels = task.forget.images, task.forget.labels
        start = mixed(images, INVERTED, task.generator, UNEVEN, labels)
        order = torch.randperm(task.original.num_classes, generator=task.generator)
        targets = order.repeat(-(-len(start) // len(order)))[: len(start)].to(start.device)
        with task.timed("probes"):
            made = inverted(
                task.original,
                start,
                targets,
                Whitening(images),
                steps=INVERSION_STEPS,
                generator=task.generator,
                batch_size=settings.probe_batch,
                passes=self._passes,
                progress=lambda done, total: task.progress("probes", done, total),
            )
        return made, targets

    def _mixtures(self, count: int) -> Tensor:
        """Fresh ones. Where copies are to go, nothing but what they show may tell them from these.

        So these are altered as copies are, and some have the texture of real images.
        """
        generator = self._task.generator
        images, labels, least = self._mixed
        if self._hold_copies:
            return mixed(images, count, generator, least, labels)
        real = round(TURNED * count)
        made = mixed(images, count - real, generator, least, labels)
        strange = rotate_recolour(mixed(self._task.forget.images, real, generator), generator)
        return perturb_pixels(torch.cat([made, strange]), generator)

    def _made_once(self) -> ProbeBatch | None:
        """Probes made once: the attack's, then the pool of mixtures."""
        settings, parts = self._settings, []
        if self.kind in ("pgd", "both"):
            made = attacked(self._task, per_image=20, eps=4.0, iterations=100, margin=PGD_MARGIN)
            parts.append(self.answers(made.images, made.labels))
        if settings.pool and self.kind != "pgd":
            parts.append(self.answers(self._mixtures(settings.pool)))
        return joined(parts) if parts else None


def joined(parts: Sequence[ProbeBatch]) -> ProbeBatch:
    """Several batches as one."""
    return ProbeBatch(*(torch.cat(column) for column in zip(*parts, strict=True)))


@dataclass(frozen=True, kw_only=True)
class AdversarialFields(PGDFields):
    """The hyper-parameters that Adv and L2UL share, as their authors' scripts set them.

    A step takes a batch of probes and beside it a batch of forget images, both in a fixed order
    and cycled.
    """

    lr: float = hyper(1e-3, "learning rate of SGD", "public code of L2UL", above=0, high=100)
    momentum: float = hyper(0.9, "momentum of SGD", "public code of L2UL", high=1)
    weight_decay: float = hyper(1e-4, "weight decay of SGD", "public code of L2UL")
    probe_batch: int = hyper(128, "probes a step", "code of Stake the Points; L2UL's: 256", low=1)
    forget_batch: int = hyper(
        128, "forget images beside them", "code of Stake the Points; L2UL's: 32", low=1
    )
    batch_norm: Literal["eval", "train"] = hyper(
        "train", "mode of BatchNorm while unlearning; in eval the ascent has no bound"
    )
    max_steps: int = hyper(0, "step budget; 0: 101 passes over the probes", "public code")

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
