"""Checks of the deployed path, the same for every method: forgetting and structural drift."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stakes.data.forget import ForgetSet
from stakes.models.classifier import Classifier
from stakes.training.adaptive import FEW
from stakes.training.criteria import EXACT, Goal
from stakes.training.losses import margins
from stakes.training.structure import affinities, drift

SLACK = 0.1  # of the views: as many more meet a criterion once the learning rate has decayed


@dataclass(frozen=True)
class Check:
    """What one check of the network found; its tensors are on the CPU.

    Attributes:
        margins: (k,) lead of the true class over the best other one, for each forget image.
        leads: (k,) what the goal of the run requires to be below 0; for ``exact``, the margins.
        drift: structural drift on the monitor's probes, in [0, 2]; NaN where the features are.
        view_margins: (v,) margins of the watched views; empty where none are watched.
        view_leads: (v,) what has to be below 0 in the required share of the views.
        needed: the required share.
        held_drift: the drift on other images that the run holds; None where it has no such.
    """

    margins: Tensor
    leads: Tensor
    drift: float
    view_margins: Tensor
    view_leads: Tensor
    needed: float
    held_drift: float | None = None

    @property
    def bounded_drift(self) -> float:
        """The drift that bounds the learning rate."""
        return self.drift if self.held_drift is None else self.held_drift

    @property
    def forgotten(self) -> bool:
        """Whether every forget image meets the criterion, and the required share of the views."""
        met, views = int((self.view_leads < 0).sum()), len(self.view_leads)
        return bool((self.leads < 0).all()) and (views == 0 or met / views >= self.needed)

    @property
    def nearly(self) -> bool:
        """Whether settling will bring the rest: a few views, or images if no views are watched."""
        met, views = int((self.view_leads < 0).sum()), len(self.view_leads)
        if views:
            return bool((self.leads < 0).all()) and met / views >= self.needed - SLACK
        return float((~(self.leads < 0)).double().mean()) <= FEW

    @property
    def views_accuracy(self) -> float | None:
        """Percent of the views that are not misclassified; None where none are watched."""
        if not len(self.view_margins):
            return None
        return 100.0 * float((~(self.view_margins < 0)).float().mean())

    @property
    def views_left(self) -> float | None:
        """Percent of the views not known to meet the criterion; None where none are watched."""
        if not len(self.view_leads):
            return None
        return 100.0 * float((~(self.view_leads < 0)).float().mean())

    @property
    def forget_accuracy(self) -> float:
        """Percent of the forget images that are not misclassified; NaN logits count among them."""
        return 100.0 * float((~(self.margins < 0)).float().mean())

    def __str__(self) -> str:
        """What is still recognised, for the progress."""
        copies, left = self.views_accuracy, 100.0 * float((~(self.leads < 0)).float().mean())
        more = "" if left == self.forget_accuracy else f", {left:.0f} % not deep enough"
        if copies is not None:
            shallow = "" if self.views_left == copies else f", {self.views_left:.0f} % not deep"
            more += f" ({copies:.0f} % of copies{shallow})"
        return f"{self.forget_accuracy:.0f} % still recognised{more}"

    def row(self) -> dict[str, float]:
        """Its part of a history row."""
        row = {"forget_accuracy": self.forget_accuracy, "drift": self.drift}
        known, left = self.views_accuracy, self.views_left
        if known is None or left is None:
            return row
        return row | {"views_accuracy": known, "views_left": left}


class Monitor:
    """Checks the deployed path in eval mode, whatever the method trains on.

    Args:
        original: the classifier before unlearning.
        forget: the images to forget, on the classifier's device.
        stakes: (c, d) anchors in feature space (see
            :func:`stakes.training.structure.place_anchors`).
        probes: (n, 3, h, w) mixtures of the forget images that no method trains on.
        projector: set where the deployed path goes through one.
        views: altered copies of the forget images, each (k, 3, h, w), to be forgotten as well.
        needed: share of these views that has to meet the criterion.
        goal: what the forget images have to reach; the views, its criterion alone.
        held: (m, 3, h, w) other images, whose drift bounds the learning rate in place of that of
            the probes.

    Attributes:
        goal: as given.
    """

    def __init__(
        self,
        original: Classifier,
        forget: ForgetSet,
        stakes: Tensor,
        probes: Tensor,
        projector: nn.Module | None = None,
        views: Sequence[Tensor] = (),
        needed: float = 1.0,
        goal: Goal = EXACT,
        held: Tensor | None = None,
    ) -> None:
        self._k, self._needed, self.goal = len(forget), needed, goal
        self._labels = forget.labels.repeat(1 + len(views))
        self._stakes = stakes
        held = probes[:0] if held is None else held
        self._images = torch.cat([forget.images, *views, probes, held])
        self._projector = projector
        with torch.no_grad():
            structures = affinities(_features(original, torch.cat([probes, held])), stakes)
        self._structure, self._held = structures.split([len(probes), len(held)])

    @torch.no_grad()
    def check(self, live: Classifier) -> Check:
        """Measure ``live`` without moving anything in it, BatchNorm statistics included."""
        training = live.training
        live.eval()
        features = _features(live, self._images)
        live.train(training)
        if self._projector is not None:
            training = self._projector.training
            features = self._projector.eval()(features)
            self._projector.train(training)
        shown = len(self._labels)
        logits, views = live.head(features[:shown]).split([self._k, shown - self._k])
        labels, view_labels = self._labels.split([self._k, shown - self._k])
        after = affinities(features[shown:], self._stakes)
        now, held = after.split([len(self._structure), len(self._held)])
        return Check(  # read now, on the processor: every step's progress speaks of it
            margins=margins(logits, labels).cpu(),
            leads=self.goal.of(logits, labels).cpu(),
            drift=drift(self._structure, now),
            held_drift=drift(self._held, held) if len(held) else None,
            view_margins=margins(views, view_labels).cpu(),
            view_leads=self.goal.lead(views, view_labels).cpu(),
            needed=self._needed,
        )


def _features(classifier: Classifier, images: Tensor, batch_size: int = 256) -> Tensor:
    return torch.cat([classifier.features(batch) for batch in images.split(batch_size)])
