"""Surrogate data as probes: images, and activations of a sidecar, with the original's answers."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stakes.data.activations import Activations
from stakes.data.augment import mixed
from stakes.data.surrogates import Surrogates
from stakes.data.transfer import to_device
from stakes.data.views import random_view
from stakes.methods.probing import BATCH, ProbeBatch, ProbeSource, joined
from stakes.methods.task import Task

FEW = 2000  # of fewer, half of a draw is mixed afresh, so that they cannot be memorised
OFTEN = 4.0  # a surrogate is drawn at most as many times as often as one of average weight


class SurrogateProbes:
    """Draws of surrogate data with the original's answers to it.

    Every image passes through the original once, before the first step. Those are drawn more
    often that lie where boundaries are to move: near a forget image in feature space, or
    undecided between two classes (see :func:`weights`). Where a sidecar describes what the layers
    that stay as they are give for training data, half of a draw is activations, fresh each time;
    all of it, where there are no other images than the sidecar's own.

    Args:
        given: the images.
        task: whose forget images, network and generator.
        source: of the original's answers to any images.
        alter: whether half of a draw is altered as copies are, where copies of the forget images
            are to be forgotten, so that alterations do not tell these from what is held.
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
        features, logits = [], []
        for start in range(0, len(given), BATCH):
            found = source.answers(
                self._images(torch.arange(start, min(start + BATCH, len(given))))
            )
            features.append(found.features)
            logits.append(found.logits)
            task.progress("surrogates", min(start + BATCH, len(given)), len(given))
        self._features, self._logits = torch.cat(features), torch.cat(logits)
        near = source.answers(task.forget.images).features
        self._weights = weights(self._features, self._logits, near).cpu()
        if given.activations is not None and source.activations is None:
            reason = "this run changes other layers"
            if not source.shared_layers:
                reason = "its passes are divided, or none of its layers stays as it is"
            note = f"activations of the sidecar not used: {reason}"
            task.progress("surrogates", len(given), len(given), note)

    def draw(self, count: int) -> ProbeBatch:
        """``count`` of them, part of them activations where there are any."""
        described = self._source.activations
        if described is None:
            return self._shown(count)
        drawn = count if self._given.synthetic else count // 2
        parts = [self._activated(described, drawn)] if drawn else []
        if drawn < count:
            parts.append(self._shown(count - drawn))
        return joined(parts)

    def _activated(self, described: Activations, count: int) -> ProbeBatch:
        """Activations like those of training data."""
        return self._source.answers_from(described.draw(count, self._task.generator))

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


def weights(features: Tensor, logits: Tensor, near: Tensor) -> Tensor:
    """How often each surrogate is drawn (n,), 1 on average before it is bounded.

    The exponential of two standard scores, halved: the greatest cosine of an image's features
    (n, d) with those of the images to forget (k, d), and how little its first choice leads the
    second in the logits (n, c). Both are bounded by a quarter and ``OFTEN``.

    >>> w = weights(torch.eye(2), torch.tensor([[2.0, 2.0], [9.0, 0.0]]), torch.eye(2)[:1])
    >>> bool(w[0] > w[1])
    True
    """
    cosines = F.normalize(features, dim=1) @ F.normalize(near, dim=1).T
    best = logits.topk(2, dim=1).values
    score = (_standard(cosines.amax(1)) - _standard(best[:, 0] - best[:, 1])) / 2
    return score.exp().clamp(1 / OFTEN, OFTEN)


def _standard(values: Tensor) -> Tensor:
    """Mean 0 and variance 1; all 0 where they are equal."""
    return (values - values.mean()) / values.std(correction=0).clamp_min(1e-12)
