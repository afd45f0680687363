"""The loss of STRUCTGUARD's default: what each step minimises, term by term."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stakes.data.views import random_view
from stakes.methods.probing import ProbeBatch, ProbeSource, joined
from stakes.methods.structguard.surrogates import SurrogateProbes
from stakes.methods.task import Task
from stakes.training.adaptive import AdaptiveMargin, ViewsScale
from stakes.training.criteria import CRITERIA, Goal
from stakes.training.losses import (
    DELETION,
    RETENTION,
    STRUCTURAL,
    Answers,
    Push,
    alignment,
    feature_shift,
    margins,
)
from stakes.training.precision import autocast
from stakes.training.structure import affinities
from stakes.training.targets import next_choices, second_choices

if TYPE_CHECKING:  # the settings' own file imports this one
    from stakes.methods.structguard.default import StructGuard

VIEWS_PER_IMAGE = 3  # fresh ones in every step
VIEWS_WEIGHT = 1.0  # of their deletion to begin with; the run changes it (see ViewsScale)
COHORTS = 8  # where copies are to be forgotten too, or a step cannot take all images
COHORT_STEPS = 30  # from one cohort's turn to the next; all have theirs in half of max_steps
NEXT_CHOICES = 4  # that a destination is drawn from: one guess in four is right
MANY, ALL = "more images than a step takes", "a step takes all images"


class Objective:
    """The named loss terms of one run."""

    def __init__(self, settings: "StructGuard", task: Task) -> None:
        settings = replace(settings, probe_batch=settings.probes_a_step(task.original))
        self.settings = settings
        self._task = task
        device = task.stakes.device
        self.balance = AdaptiveMargin(
            len(task.forget), settings.margin, patience=settings.patience, device=device
        )
        self.views_scale = ViewsScale(1 - settings.views_needed, patience=settings.patience)
        self._autocast = autocast(settings.precision, device)
        self._copies = VIEWS_PER_IMAGE if CRITERIA[settings.criterion].views else 0
        self.probes, self.surrogates = self._sources()
        self._many = len(task.forget) > settings.forget_batch
        self.cohorts, self.cohorts_why = self._parts()
        self.towards, self.towards_why = self._destination()
        self.sent_to = self._sent_to()
        lead = CRITERIA[settings.criterion].lead
        self.goal = Goal(lead, self.sent_to if self.towards == "drawn" else None)
        self._batches = task.batches(len(task.forget), settings.forget_batch)
        task.checkpoint.keep(self.balance, self.views_scale)

    def terms(self, step: int) -> dict[str, Tensor]:
        """Every term of this step, already weighted; their plain sum is minimised."""
        task = self._task
        probes = self._held()
        batch = next(self._batches)
        asked = batch < self._asked(step)
        pick, waiting = batch[asked], batch[~asked]
        if len(waiting):
            probes = joined([probes, self.probes.answers(self._shown(waiting))])
        labels = task.forget.labels[pick]
        shown = self._shown(pick) if len(pick) else probes.images[:0]
        with self._autocast:
            features = task.live.features(torch.cat([shown, probes.images]))
        count = len(shown) - len(pick)
        shown, views, kept = features.float().split([len(pick), count, len(probes.images)])
        terms: dict[str, Tensor] = {}
        if len(pick):
            logits = task.live.head(shown)
            terms["deletion"] = self._deletion(logits, labels, pick, self.goal)
            self.balance.see(pick, self.goal.of(logits.detach(), labels, pick))
        if count:
            seen = labels.repeat(self._copies)
            logits = task.live.head(views)
            weight = self.views_scale.value * VIEWS_WEIGHT
            copies = pick.repeat(self._copies)
            terms["views"] = weight * self._deletion(logits, seen, copies, Goal(self.goal.lead))
            self.views_scale.see(self.goal.lead(logits.detach(), seen))
        return terms | self._retention(kept, probes)

    def _sources(self) -> tuple[ProbeSource, SurrogateProbes | None]:
        """Where probes come from: the forget images or the network, and surrogates if given."""
        settings, task = self.settings, self._task
        given, alone = task.surrogates, not self._copies
        if given is not None:  # they are the probes: none are to be made from the network
            settings = replace(settings, probes="mixed", pool=0)
        probes = ProbeSource(settings, task, self._autocast, hold_copies=alone)
        if given is None:
            return probes, None
        return probes, SurrogateProbes(given, task, probes.answers, alter=not alone)

    def kind_of_probes(self) -> dict[str, str]:
        """Which probes a step holds, and why, for the row."""
        if self.surrogates is not None:
            return {"probes": "surrogates", "probes_why": "as given"}
        return {"probes": self.probes.kind, "probes_why": self.probes.why}

    def _held(self) -> ProbeBatch:
        """What is held in a step."""
        if self.surrogates is None:
            return self.probes.draw()
        return self.surrogates.draw(self.settings.probe_batch // 2)

    def _asked(self, step: int) -> int:
        """How many forget images have had their turn in this step."""
        half = self.settings.max_steps // (2 * self.cohorts)
        turns = min(self.cohorts, 1 + (step - 1) // max(1, min(COHORT_STEPS, half)))
        return -(-turns * len(self._task.forget) // self.cohorts)

    def _shown(self, pick: Tensor) -> Tensor:
        """Forget images, and fresh copies of them where these are to be forgotten too."""
        images = self._task.forget.images[pick]
        copies = [random_view(images, self._task.generator) for _ in range(self._copies)]
        return torch.cat([images, *copies])

    def _deletion(self, logits: Tensor, labels: Tensor, pick: Tensor, goal: Goal) -> Tensor:
        """Of the logits of the forget images at ``pick``."""
        towards = None
        if self.sent_to is not None and self.goal.lead is margins and self.goal.towards is None:
            towards = self.sent_to[pick.to(labels.device)]
        lead = goal.of(logits, labels, pick)
        push = Push(logits, labels, lead, self.balance.margin, towards)
        return DELETION[self.settings.deletion_loss](push)

    def _retention(self, features: Tensor, probes: ProbeBatch) -> dict[str, Tensor]:
        settings, stakes = self.settings, self._task.stakes
        logits = self._task.live.head(features)
        answers = Answers(probes.labels, probes.logits, settings.temperature)
        kept = RETENTION[settings.retention_loss](logits, answers)
        terms = {"retention": settings.retention_weight * kept}
        if settings.feature_weight:
            shift = feature_shift(probes.features, features)
            terms["features"] = self.balance.feature_scale * settings.feature_weight * shift
        if settings.align_weight:
            before, after = affinities(probes.features, stakes), affinities(features, stakes)
            terms["alignment"] = settings.align_weight * self._misalignment(before, after)
        return terms

    def _misalignment(self, before: Tensor, after: Tensor) -> Tensor:
        """How far two structures (n, c) differ; by the cosine, probe by probe."""
        if self.settings.align_loss == "cosine":
            return alignment(before, after, over="probes")
        return STRUCTURAL[self.settings.align_loss](before, after)

    def _parts(self) -> tuple[int, str]:
        """How many parts the forget images are asked to go in, and why."""
        settings, k = self.settings, len(self._task.forget)
        if settings.cohorts:
            return min(k, settings.cohorts), "as given"
        if self._copies and self.surrogates is None:
            return min(k, COHORTS), "copies are to be forgotten too"
        return (min(k, COHORTS), MANY) if self._many else (1, ALL)

    def _destination(self) -> tuple[str, str]:
        """Which class the images are pushed to, and why.

        Where each goes to whatever is strongest by then, those of the second part find the way that
        those of the first have made, and what is kept goes with them.
        """
        if self.settings.towards != "auto":
            return self.settings.towards, "as given"
        if CRITERIA[self.settings.criterion].lead is not margins:
            return "drawn", "new answers are not to be foretold"
        return ("second", MANY) if self._many else ("strongest", ALL)

    def _sent_to(self) -> Tensor | None:
        """The class that each forget image is pushed to, where it is pushed to one."""
        task = self._task
        if self.towards == "strongest":
            return None
        before = self.probes.answers(task.forget.images).logits
        if self.towards == "second":
            return second_choices(before, task.forget.labels)
        return next_choices(before, task.forget.labels, NEXT_CHOICES, task.generator)
