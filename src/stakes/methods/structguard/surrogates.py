"""Surrogate data as probes: images, and activations of a sidecar, with the original's answers."""

import torch
from torch import Tensor

from stakes.data.activations import Activations
from stakes.data.augment import mixed
from stakes.data.surrogates import Surrogates
from stakes.data.transfer import to_device
from stakes.data.views import random_view
from stakes.methods.probing import BATCH, ProbeBatch, ProbeSource, joined
from stakes.methods.task import Task

FEW = 2000  # of fewer, half of a draw is mixed afresh, so that they cannot be memorised
MOST = 10_000  # images that are held; of more, those of whose class the network is surest
OWN = 0.5  # share of a draw that has its classes from the forget images, in proportion
OFTEN = 4.0  # a surrogate is drawn at most as many times as often as one of average weight


class SurrogateProbes:
    """Draws of surrogate data with the original's answers to it.

    Every image passes through the original once, before the first step. Of a large number, those
    are held that the original is surest of (see :func:`surest`): they are most like its training
    data. Classes that many forget images are of lose most, so they are drawn more often (see
    :func:`class_shares`). Where a sidecar describes what the layers that stay as they are give for
    training data, half of a draw is activations, fresh each time; all of it, where there are no
    other images than the sidecar's own.

    Args:
        given: the images.
        task: whose forget images, network and generator.
        source: of the original's answers to any images.
        alter: whether half of a draw is altered as copies are, where copies of the forget images
            are to be forgotten, so that alterations do not tell these from what is held.

    Attributes:
        held: how many images are drawn from.
    """

    def __init__(
        self,
        given: Surrogates,
        task: Task,
        source: ProbeSource,
        *,
        alter: bool,
    ) -> None:
        self._given, self._task, self._source, self._alter = given, task, source, alter
        shares = class_shares(task)
        self._described: tuple[Activations, Tensor] | None = None
        if source.activations is not None:
            answered = source.answers_from(source.activations.centres()).labels.cpu()
            self._described = source.activations, shares[answered]
        features, logits = [], []
        for start in range(0, len(given), BATCH):
            found = source.answers(
                self._images(torch.arange(start, min(start + BATCH, len(given))))
            )
            features.append(found.features)
            logits.append(found.logits)
            task.progress("surrogates", min(start + BATCH, len(given)), len(given))
        self._features, self._logits = torch.cat(features), torch.cat(logits)
        chosen = surest(self._logits, MOST)
        self.held = len(chosen)
        self._weights = torch.zeros(len(given))
        self._weights[chosen.cpu()] = weights(self._logits[chosen].argmax(1).cpu(), shares)
        if given.activations is not None and source.activations is None:
            reason = "this run changes other layers"
            if not source.shared_layers:
                reason = "its weights are divided, or none of its layers stays as it is"
            note = f"activations of the sidecar not used: {reason}"
            task.progress("surrogates", len(given), len(given), note)

    def draw(self, count: int) -> ProbeBatch:
        """``count`` of them, part of them activations where there are any."""
        if self._described is None:
            return self._shown(count)
        drawn = count if self._given.synthetic == "all" else count // 2
        parts = [self._activated(*self._described, drawn)] if drawn else []
        if drawn < count:
            parts.append(self._shown(count - drawn))
        return joined(parts)

    def _activated(self, described: Activations, shares: Tensor, count: int) -> ProbeBatch:
        """Activations like those of training data, with these shares of its classes."""
        return self._source.answers_from(described.draw(count, self._task.generator, shares))

    def _shown(self, count: int) -> ProbeBatch:
        """Images, drawn by their weights, half of them altered or freshly mixed."""
        few = len(self._given) < FEW
        fresh = count // 2 if few or self._alter else 0
        parts = [self._held(count - fresh)]
        if fresh:
            generator, some = self._task.generator, self._images(self._drawn(fresh))
            made = mixed(some, fresh, generator) if few else some
            parts.append(
                self._source.answers(random_view(made, generator) if self._alter else made)
            )
        return joined(parts)

    def _held(self, count: int) -> ProbeBatch:
        indices = self._drawn(count)
        there = to_device(indices, self._logits.device)
        logits = self._logits[there]
        images = self._images(indices)
        outputs = self._source.outputs(images)
        return ProbeBatch(images, logits.argmax(1), self._features[there], logits, outputs)

    def _drawn(self, count: int) -> Tensor:
        return torch.multinomial(
            self._weights, count, replacement=True, generator=self._task.generator
        )

    def _images(self, indices: Tensor) -> Tensor:
        return to_device(self._given.images(indices), self._task.stakes.device).to(
            self._task.stakes
        )


def surest(logits: Tensor, most: int) -> Tensor:
    """Indices of the images to hold, in order: all, or ``most`` of more, all classes alike.

    Of each class, by the first choice in the logits (n, c), those come first that it leads the
    second by most in. A class with few images leaves its place to others.

    >>> surest(torch.tensor([[9.0, 0.0], [1.0, 0.0], [5.0, 0.0], [0.0, 2.0]]), most=2)
    tensor([0, 3])
    """
    if len(logits) <= most:
        return torch.arange(len(logits), device=logits.device)
    best = logits.topk(2, dim=1)
    labels, lead = best.indices[:, 0], best.values[:, 0] - best.values[:, 1]
    by_lead = lead.argsort(descending=True, stable=True)
    by_class = by_lead[labels[by_lead].argsort(stable=True)]
    counts = torch.bincount(labels, minlength=logits.shape[1])
    first = counts.cumsum(0) - counts
    place = torch.empty_like(labels)  # of each image among those of its class
    place[by_class] = torch.arange(len(labels), device=labels.device) - first[labels[by_class]]
    return place.argsort(stable=True)[:most].sort().values


def class_shares(task: Task) -> Tensor:
    """What share of a draw each class is to have (c,); they sum to 1.

    Half is divided evenly, half in proportion to the classes of the forget images. Where whole
    classes are to be forgotten, everything is divided evenly.
    """
    even = torch.full((task.original.num_classes,), 1 / task.original.num_classes)
    if task.forget.classes:
        return even
    counts = torch.bincount(task.forget.labels.cpu(), minlength=len(even))
    return torch.lerp(even, counts / counts.sum(), OWN)


def weights(labels: Tensor, shares: Tensor) -> Tensor:
    """How often each surrogate is drawn (n,), so that classes have these shares (c,) of a draw.

    1 on average before it is bounded by ``OFTEN``, so that a few images of a class are not
    memorised.

    >>> weights(torch.tensor([0, 0, 1, 1]), torch.tensor([0.75, 0.25]))
    tensor([1.5000, 1.5000, 0.5000, 0.5000])
    """
    counts = torch.bincount(labels, minlength=len(shares))
    there = shares * (counts > 0)
    each = len(labels) * there / there.sum() / counts.clamp_min(1)
    return each[labels].clamp_max(OFTEN)
